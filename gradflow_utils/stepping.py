"""One step of training while it is being recorded: what arrives forward, backward and at the optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gradflow_utils.flow import BINS, FROZEN, GRADIENT_DECADES, FlowRecord
from gradflow_utils.statistics import SMALL, Moments, norm, norm_of_each, norms, total_norm


@dataclass(eq=False)
class Step:
    """What is known of the step under way.

    Attributes:
        number: counts all steps, recorded or not.
        recorded: whether it is one of those that `every` selects.
        parameters: of the whole model, by name.
        histograms: by kind and layer; None if none are wanted.
    """

    number: int
    recorded: bool
    parameters: dict[str, nn.Parameter]
    histograms: dict[str, dict[str, Tensor]] | None = None
    layers: dict[str, None] = field(default_factory=dict)  # in the order in which they ran
    moments: dict[tuple[str, ...], Moments] = field(default_factory=dict)
    gradients: defaultdict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # norms
    small: defaultdict[torch.Size, list[tuple[str, Tensor]]] = field(default_factory=lambda: defaultdict(list))
    time_steps: defaultdict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))  # norms at the ends
    weight_norms: Tensor | None = None
    weight_grad_norms: Tensor | None = None
    total: Tensor | None = None
    without_gradient: list[str] = field(default_factory=list)  # parameters
    applied: list[Tensor] = field(default_factory=list)
    update_norms: Tensor | None = None
    backward_passes: int = 0
    updated: set[torch.optim.Optimizer] = field(default_factory=set)  # those that have stepped
    is_open: bool = True
    backward_noted: bool = False
    handles: list = field(default_factory=list)  # of the hooks on this step's tensors

    def begin(self) -> None:
        """Measure the weights, if this is the step's first batch."""
        self.backward_noted = False  # a backward pass that failed may have left this and that
        self.small.clear()
        if self.recorded and self.weight_norms is None:
            self.weight_norms = norms(list(self.parameters.values()))

    # Forward

    def add(self, names: tuple[str, ...], measured: Moments) -> None:
        """Add the moments of some layers, pooled with those of earlier batches of the step."""
        parts = {names: measured}
        split = [group for group in self.moments if group != names and not set(group).isdisjoint(names)]
        if split:  # a batch of another size falls into other groups
            parts = {(name,): measured[number] for number, name in enumerate(names)}
            for group in split:
                whole = self.moments.pop(group)
                self.moments |= {(name,): whole[number] for number, name in enumerate(group)}
        for group, part in parts.items():
            earlier = self.moments.get(group)
            self.moments[group] = part if earlier is None else earlier.pooled_with(part)

    def add_histogram(self, kind: str, layer: str, values: Tensor, limits: tuple[float, float] | None = None) -> None:
        """Keep the shares of the values in equal bins, and the limits; of several batches the first counts."""
        if self.histograms is None or layer in self.histograms[kind] or values.numel() == 0:
            return
        values = values.float()
        ends = torch.stack(values.aminmax()) if limits is None else values.new_tensor(limits)
        try:
            shares = torch.histc(values, BINS[kind], *ends.tolist()) / values.numel()
        except RuntimeError:  # not finite
            shares = values.new_full((BINS[kind],), math.nan)
        self.histograms[kind][layer] = torch.cat((shares, ends))

    # Backward

    def watch(self, tensor: Tensor, see: Callable[[Tensor], None]) -> None:
        """Call `see` with the gradient of a tensor, as long as the step is open."""

        def if_open(gradient: Tensor) -> None:
            if self.is_open:
                see(gradient.detach())  # it has a graph in a double backward pass

        self.handles.append(tensor.register_hook(if_open))

    def see_gradient(self, layer: str, gradient: Tensor) -> None:
        if gradient.numel() <= SMALL and gradient.dtype == torch.float32 and gradient.layout == torch.strided:
            self.small[gradient.shape].append((layer, gradient))  # measured together when the backward pass ends
        else:
            self.gradients[layer].append(norm(gradient))
        if self.histograms is not None:
            self.add_histogram("gradient", layer, gradient.abs().log10(), GRADIENT_DECADES)
        self.note_backward(gradient)

    def note_backward(self, gradient: Tensor) -> None:
        """Called from within a backward pass: have its end reported."""
        if not self.backward_noted:
            self.backward_noted = True
            torch.autograd.Variable._execution_engine.queue_callback(self.end_backward)

    def end_backward(self) -> None:
        self.backward_noted = False
        if not self.is_open:
            return
        self.backward_passes += 1
        for alike in self.small.values():
            layers, gradients = zip(*alike)
            for layer, length in zip(layers, norm_of_each(torch.stack(gradients)).unbind()):
                self.gradients[layer].append(length)
        self.small.clear()
        if self.recorded:
            gradients = [one.grad for one in self.parameters.values()]
            present = [number for number, gradient in enumerate(gradients) if gradient is not None]
            lengths = norms([gradients[number] for number in present])
            self.weight_grad_norms, self.total = spread(lengths, present, self.weight_norms), total_norm(lengths)
            self.without_gradient = [name for name, one in self.parameters.items() if one.grad is None]

    # The end

    def discard(self) -> None:
        """Close the step: hooks on its tensors that are still alive see nothing any more."""
        self.is_open = False
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def write_to(self, flow: FlowRecord) -> None:
        """Close the step and, if it is recorded, write it as one row."""
        self.discard()
        losses, flow._losses = flow._losses, []
        if not self.recorded:
            return
        nothing = torch.full((), math.nan, dtype=self.weight_norms.dtype, device=self.weight_norms.device)
        none = nothing.expand(len(self.parameters))

        flow.add_moments(self.moments)
        known = set(flow.layers)
        flow.layers += [name for name in self.layers if name not in known]
        backward = []
        for name in self.layers:
            lengths, ends = self.gradients.get(name), self.time_steps.get(name)
            backward.append(nothing if lengths is None else _root_sum_square(lengths))
            backward.append(nothing if ends is None else torch.div(*torch.stack(ends).norm(dim=0)))
            if lengths is None:
                reached = (
                    "the loss does not reach it, or it ran without gradients" if self.backward_passes else "no backward pass"
                )
                flow.note(f"no gradient: {reached}", name)
        flow._backward.append(self.layers, torch.stack(backward).reshape(-1, 2) if backward else nothing.expand(0, 2))

        gradients = none if self.weight_grad_norms is None else self.weight_grad_norms
        updates = none if self.update_norms is None else self.update_norms / self.weight_norms
        flow._gradient.append(flow.parameters, gradients[:, None])
        flow._parameter.append(flow.parameters, torch.stack((self.weight_norms, updates), dim=1).float())
        for name in self.without_gradient:
            trainable = self.parameters[name].requires_grad
            flow.note("no gradient: the loss does not reach it" if trainable else FROZEN, name)

        loss = torch.stack(losses).mean().to(nothing) if losses else nothing
        total = nothing if self.total is None else self.total
        applied = _root_sum_square(self.applied) if self.applied else nothing
        flow._step.append(("",), torch.stack((loss, total, applied, torch.full_like(nothing, self.backward_passes)))[None])
        for kind, shares in (self.histograms or {}).items():
            flow._histograms[kind].append(
                shares, torch.stack(list(shares.values())) if shares else nothing.expand(0, BINS[kind] + 2)
            )
        flow.steps.append(self.number)


def spread(values: Tensor, places: list[int], like: Tensor) -> Tensor:
    """A vector as long as `like` with the values at their places and NaN elsewhere."""
    if places == list(range(len(like))):
        return values
    whole = torch.full_like(like, math.nan)
    whole[places] = values.to(like)
    return whole


def _root_sum_square(lengths: list[Tensor]) -> Tensor:
    return lengths[0] if len(lengths) == 1 else torch.stack(lengths).norm()
