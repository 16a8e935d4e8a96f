"""The end-to-end Jacobian: how a network stretches and squeezes a small step of its input."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


@torch.enable_grad()
def singular_values(model: nn.Module, x: Tensor) -> Tensor:
    """Singular values of d(output)/d(input) at each row of a batch.

    They are computed on a float64 copy of the model, so that they are right down to 1e-15 of the
    largest, and the model keeps its parameters, gradients, buffers and mode. Dropout in training
    mode gives the Jacobian of one draw; the global generator is left as it was.

    Args:
        model: any module that treats rows separately: BatchNorm must be in eval mode.
        x: floating-point inputs [rows, ...].

    Returns:
        float64 [rows, min(inputs, outputs)], largest first, on the CPU; inputs and outputs count
        the values of one row.

    Raises:
        ValueError: a row of the output depends on another row of the input, or not on the input at
            all, or the model does not return one tensor of as many rows.

    Source: Saxe et al. 2014; Pennington et al. 2017.
    """
    with torch.random.fork_rng(devices=[]):
        double = copy.deepcopy(model).to("cpu", torch.float64).requires_grad_(False)
        x = x.detach().to("cpu", torch.float64).requires_grad_()
        output = double(x)  # depends on nothing but x that has a gradient
    if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != len(x) or not output.requires_grad:
        raise ValueError(
            f"model: got {tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__} for x of shape "
            f"{tuple(x.shape)}, expected one tensor that depends on x and has as many rows"
        )
    output = output.flatten(1) if output.ndim > 1 else output[:, None]
    # The sum over rows gives each row its own gradient, if no row depends on another.
    gradients = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in output.unbind(1)]
    if len(x) > 1:
        elsewhere = torch.autograd.grad(output[0].sum(), x)[0][1:]
        if elsewhere.count_nonzero():
            raise ValueError(
                "model: a row of the output depends on other rows of the batch, as with BatchNorm in training mode; "
                "call model.eval() first, and put the batch first"
            )
    return torch.linalg.svdvals(torch.stack(gradients, dim=1).flatten(2))
