"""The second bank: labelled networks on which a diagnosis is judged once, after it was tuned on others.

No rule was tuned on these networks. Each label comes from how its network is made, and a measurement
with plain autograd confirmed the property that it names. Builders stand in `second_bank_*.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import second_bank_convolutional as convolutional
import second_bank_mlp as mlp
import second_bank_recurrent as recurrent
import second_bank_transformer as transformer
from bank_case import Case, Trial


def _case(build: Callable[[int], Trial], fault: str, why: str, *also: str) -> Case:
    """The family and the name come from where the builder stands and what it is called."""

    def seeded(seed: int) -> Trial:
        torch.manual_seed(seed)
        return build(seed)

    family = build.__module__.removeprefix("second_bank_")
    return Case(f"{family}: {build.__name__.replace('_', ' ')}", family, fault, why, seeded, frozenset(also))


CASES: tuple[Case, ...] = (
    # Fully connected, healthy
    _case(mlp.wide_shallow, "", "two layers: nothing to vanish"),
    _case(mlp.mish_he, "", "He's gain keeps the variance over 8 layers"),
    _case(mlp.selu_deep, "", "self-normalising with LeCun's gain, 30 layers (Klambauer et al. 2017)"),
    _case(mlp.prelu_batchnorm, "", "normalised; a bias before BatchNorm has gradient 0 by construction"),
    _case(mlp.rezero, "", "branches get no gradient at the first step only: alpha starts at 0"),
    _case(mlp.tied_autoencoder, "", "four tanh layers with Linear's own weights, used twice"),
    _case(mlp.siamese, "", "one shallow network called twice per step"),
    _case(mlp.two_towers, "", "most rows of an embedding get no gradient in any one batch"),
    _case(mlp.converged, "", "trained until the gradients are small: nothing is broken"),
    _case(mlp.scaled_loss, "", "a loss weight of 1e-4 does not change what Adam does"),
    # Fully connected, sick
    _case(mlp.hardswish_default, "vanishing", "slope 1/2 times 1/sqrt(3) a layer, 24 layers"),
    _case(mlp.relu_large_weights, "exploding", "std 0.3 at width 64: a factor of 1.7 a layer, 30 layers", "dead"),
    _case(mlp.dead_after_spike, "dead", "unscaled targets: the first steps push the ReLU units off for good",
          "exploding", "vanishing", "disconnected", "update too small"),
    _case(mlp.tanh_standard_normal, "saturated", "weights N(0, 1) at width 128: pre-activations near 10"),
    _case(mlp.sigmoid_raw_features, "saturated", "features in the hundreds meet a sigmoid layer"),
    _case(mlp.adam_rate_too_large, "update too large", "Adam moves by 0.5 what is 0.1 large", "exploding"),
    _case(mlp.sgd_rate_too_small, "update too small", "SGD at 1e-7"),
    _case(mlp.softplus_constant, "symmetry", "all weights of a layer are equal"),
    _case(mlp.detached_encoder, "disconnected", "the encoder's output is detached"),
    _case(mlp.siamese_euclidean, "non-finite", "the square root of distance 0 has slope infinity"),
    # Convolutional, healthy
    _case(convolutional.lenet, "", "two convolutions and two linear layers"),
    _case(convolutional.resnet, "", "the last scale of each branch starts at 0: no gradient at the first step only"),
    _case(convolutional.mobilenet, "", "normalised inverted residuals with gates"),
    _case(convolutional.groupnorm, "", "pre-activation residuals"),
    _case(convolutional.autoencoder, "", "four layers, a sigmoid at the output where it belongs"),
    _case(convolutional.unet, "", "skips by concatenation, normalised"),
    _case(convolutional.temporal, "", "four residual blocks of weight-normalised convolutions"),
    _case(convolutional.convnext, "", "layer scale 1e-4: small branches by design, the stream carries the gradient"),
    _case(convolutional.frozen_backbone, "", "fine-tuning: the backbone is frozen by requires_grad, the head learns"),
    # Convolutional, sick
    _case(convolutional.plain_deep, "vanishing", "24 ReLU layers under Conv2d's own weights", "dead"),
    _case(convolutional.sigmoid_eight, "vanishing", "slope 1/4 and Conv2d's own weights, 8 layers"),
    _case(convolutional.batchnorm_sixty, "exploding", "BatchNorm and ReLU without skips: 1.2 a layer backward, "
          "60 layers (Yang et al. 2019)"),
    _case(convolutional.residual_without_norm, "exploding", "each block multiplies the variance by 3, 30 blocks"),
    _case(convolutional.detection_prior, "dead", "the prior bias of a detection head, -4.6, on all layers",
          "vanishing", "disconnected", "update too small", "symmetry"),
    _case(convolutional.raw_pixels, "saturated", "pixels from 0 to 255 meet tanh"),
    _case(convolutional.stem_without_gradient, "disconnected", "no_grad around a stem that should learn"),
    _case(convolutional.adam_rate_too_large, "update too large", "Adam moves by 0.3 what is 0.05 large"),
    _case(convolutional.constant_kernels, "symmetry", "all kernels of a layer are equal"),
    _case(convolutional.blank_image, "non-finite", "a blank image divided by its spread, 0"),
    # Recurrent, healthy
    _case(recurrent.lstm_rows, "", "8 steps only"),
    _case(recurrent.gru_cell_waves, "", "24 steps with a loss at each"),
    _case(recurrent.orthogonal_tanh, "", "orthogonal recurrent weights, 16 steps"),
    _case(recurrent.language_model, "", "a loss at each of 20 tokens"),
    _case(recurrent.packed_tagger, "", "a loss at each token; padding gets no gradient"),
    _case(recurrent.identity_relu, "", "identity recurrence and ReLU, 16 steps (Le et al. 2015)"),
    _case(recurrent.seq2seq, "", "6 steps to read, 6 to write"),
    _case(recurrent.forget_bias, "", "forget bias 3 carries the gradient over 40 steps"),
    _case(recurrent.truncated, "", "the state is detached between chunks on purpose"),
    # Recurrent, sick
    _case(recurrent.tanh_sixty_steps, "vanishing", "at most 0.58 a step, 60 steps, loss at the last"),
    _case(recurrent.lstm_hundred_steps, "vanishing", "a forget gate near 1/2, 100 steps, loss at the last"),
    _case(recurrent.relu_explodes, "exploding", "a factor of 1.6 a step, 40 steps", "dead"),
    _case(recurrent.raw_sensor_values, "saturated", "values in the hundreds meet tanh", "vanishing"),
    _case(recurrent.seq2seq_detached, "disconnected", "the encoder's state is detached"),
    _case(recurrent.adam_rate_too_large, "update too large", "Adam moves by 0.3 what is 0.1 large", "saturated"),
    _case(recurrent.rate_too_small, "update too small", "AdamW at 1e-9"),
    _case(recurrent.constant_gru, "symmetry", "all weights are equal"),
    _case(recurrent.empty_sequence, "non-finite", "the mean of no words is 0/0"),
    _case(recurrent.dead_head, "dead", "unscaled targets: the first steps push the ReLU units off for good",
          "vanishing", "disconnected", "update too small"),
    # Transformers, healthy
    _case(transformer.pre_norm_twelve, "", "the residual stream carries the gradient"),
    _case(transformer.post_norm_two, "", "shallow"),
    _case(transformer.gpt_tied, "", "small weights and scaled residual branches, as GPT-2 has them"),
    _case(transformer.rmsnorm_swiglu, "", "pre-norm"),
    _case(transformer.vision_zero_head, "", "nothing below the head gets a gradient at the first step only"),
    _case(transformer.encoder_decoder, "", "two and two layers of torch.nn"),
    _case(transformer.masked_language, "", "only the masked tokens have a loss"),
    _case(transformer.pre_norm_twenty_four, "", "24 narrow blocks; the residual stream carries the gradient"),
    _case(transformer.low_rank_adapters, "", "a frozen base, adapters that start at 0"),
    # Transformers, sick
    _case(transformer.no_residual, "vanishing", "attention averages and Linear's own weights shrink, no skip"),
    _case(transformer.no_norm_large_weights, "exploding", "weights of std 0.2, no norm: the stream grows in each block",
          "dead"),
    _case(transformer.tanh_standard_normal, "saturated", "weights N(0, 1) at width 64: pre-activations near 8"),
    _case(transformer.dead_feed_forward, "dead", "bias -4 below pre-activations of size 0.6", "symmetry"),
    _case(transformer.embedding_without_gradient, "disconnected", "no_grad around layers that should learn"),
    _case(transformer.adam_rate_too_large, "update too large", "Adam moves by 0.3 what is 0.1 large",
          "dead", "exploding", "vanishing"),
    _case(transformer.warm_up_never_stepped, "update too small", "the warm-up stays at its first rate, 0"),
    _case(transformer.constant_feed_forward, "symmetry", "all weights of a feed-forward layer are equal"),
    _case(transformer.fully_masked_row, "non-finite", "softmax over a row of -inf"),
)
