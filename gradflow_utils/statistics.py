"""The forward statistics of one layer's output, exact also when a step comes in several batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from gradflow_utils.activations import Activation
from gradflow_utils.layers import counts_always_on

STATISTICS = ("mean", "std", "row_std", "min", "max", "saturated", "dead", "always_on", "identical", "rows")
SMALL = 1 << 14  # values up to which alike layers are measured together
DECIDABLE_ROWS = 16  # with fewer rows, whether a unit is dead stays undecided
_PIECE = 1 << 12  # elements up to which a float32 sum of squares is exact to 3e-6, and float64 quick
_SAFE = (1e-15, 1e15)  # norms whose squares neither vanish nor overflow in float32


def norm(tensor: Tensor) -> Tensor:
    """The Euclidean norm of one tensor without gradients, float64, exact to 3e-6.

    Plain float32 is not: the squares of a vanishing gradient are 0, and the norm of 262,144 equal numbers is 2e-4 off.
    """
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.numel() > _PIECE and tensor.dtype == torch.float32 and tensor.device.type == "cpu":  # float64 is slow there
        quick = _norm_of_pieces(tensor)
        if _SAFE[0] < quick.item() < _SAFE[1]:
            return quick
    return torch.linalg.vector_norm(tensor, dtype=_wide(tensor))


def _norm_of_pieces(tensor: Tensor) -> Tensor:
    """The norm of a float32 tensor: each piece in float32, all pieces in float64."""
    flat = tensor.reshape(-1)
    rest = len(flat) % _PIECE
    pieces = torch.linalg.vector_norm((flat[:-rest] if rest else flat).view(-1, _PIECE), dim=1)
    if rest:
        pieces = torch.cat((pieces, torch.linalg.vector_norm(flat[-rest:])[None]))
    return torch.linalg.vector_norm(pieces, dtype=torch.float64)


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The norm of each tensor, float64 [tensors]."""
    if not tensors:
        return torch.empty(0, dtype=torch.float64)
    kinds = {(one.dtype, one.layout, one.device) for one in tensors}
    if kinds != {(torch.float32, torch.strided, torch.device("cpu"))}:
        return torch.stack([norm(one) for one in tensors])
    small = [one.numel() <= _PIECE for one in tensors]
    quick = iter(torch._foreach_norm([one for one, fits in zip(tensors, small) if fits]) if any(small) else ())
    lengths = [next(quick) if fits else _norm_of_pieces(one).float() for one, fits in zip(tensors, small)]
    lengths = torch.stack(lengths).double()
    for number, length in enumerate(lengths.tolist()):
        if not _SAFE[0] < length < _SAFE[1]:
            lengths[number] = torch.linalg.vector_norm(tensors[number], dtype=torch.float64)
    return lengths


def total_norm(lengths: Tensor) -> Tensor:
    """The norm of all tensors together, of which `norms` gave the lengths; NaN if there are none."""
    return lengths.norm() if len(lengths) else lengths.new_tensor(math.nan)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64  # Apple's GPUs have no float64


@dataclass
class Moments:
    """What is kept of the outputs of some layers of equal shape: what pooling needs, and no reference to the outputs.

    Attributes:
        rows: number of rows of each layer: all positions of the output but its units.
        mean: [layers, units], over the rows.
        deviation: [layers], the norm of all deviations from the unit's mean, float64.
        low, high: [layers], the extreme values.
        saturated: [layers], the number of saturated values; None if the activation does not saturate.
        reach: [layers, units], the largest pre-activation; None if no unit of this activation can be dead.
        dead_below: the largest pre-activation of a dead unit is at most this.
        floor: [layers, units], the smallest output; None unless the activation is linear where positive.
        some: [layers, some rows, units], the outputs there.
    """

    rows: int
    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor
    saturated: Tensor | None
    reach: Tensor | None
    dead_below: float
    floor: Tensor | None
    some: Tensor

    def pooled_with(self, other: Moments) -> Moments:
        """The moments of the rows of both (Chan, Golub and LeVeque 1983, eq. 2.1)."""
        rows = self.rows + other.rows
        gap = (other.mean - self.mean).to(self.deviation.dtype) * (self.rows * other.rows / rows) ** 0.5

        def both(mine: Tensor | None, others: Tensor | None, pool: Callable) -> Tensor | None:
            return None if mine is None or others is None else pool(mine, others)

        return Moments(
            rows,
            self.mean + (other.mean - self.mean) * (other.rows / rows),
            torch.stack((self.deviation, other.deviation, gap.norm(dim=1))).norm(dim=0),
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
            both(self.saturated, other.saturated, torch.add),
            both(self.reach, other.reach, torch.maximum),
            self.dead_below,
            both(self.floor, other.floor, torch.minimum),
            self.some,
        )

    @staticmethod
    def joined(several: Sequence[Moments]) -> Moments:
        """The moments of all layers of several that are alike."""
        fields = {
            name: torch.cat([getattr(one, name) for one in several])
            for name, value in vars(several[0]).items()
            if isinstance(value, Tensor)
        }
        return replace(several[0], **fields)

    @property
    def kind(self) -> tuple:
        """What two Moments must share to be joined."""
        return (
            self.rows,
            self.mean.shape[1],
            self.mean.dtype,
            self.dead_below,
            self.saturated is None,
            self.reach is None,
            self.floor is None,
            self.some.shape[1],
        )

    def __getitem__(self, layer: int) -> Moments:
        """The moments of one of the layers."""
        one = {name: value[layer : layer + 1] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **one)

    def statistics(self) -> Tensor:
        """STATISTICS, float64 [layers, statistics]; NaN for what does not apply or is undecided."""
        exact = self.deviation
        values = self.rows * self.mean.shape[1]
        row_std = exact / values**0.5
        between = norm_of_each(self.mean - self.mean.mean(dim=1, keepdim=True)) / self.mean.shape[1] ** 0.5
        nothing = exact * math.nan
        decided = self.rows >= DECIDABLE_ROWS
        dead = (self.reach <= self.dead_below).to(exact).mean(dim=1) if decided and self.reach is not None else nothing
        always_on = (self.floor > 0).to(exact).mean(dim=1) if decided and self.floor is not None else nothing
        first = self.some[:, :, :1]
        agrees = ((self.some - first).abs_().sub_(1e-5 * first.abs()).amax(dim=1) <= 0).to(exact).mean(dim=1)
        padding = (self.some == 0).flatten(1).all(dim=1) & (self.high > self.low)  # these rows tell nothing
        table = {
            "mean": self.mean.mean(dim=1).to(exact),
            "std": torch.hypot(row_std, between),
            "row_std": row_std,
            "min": self.low.to(exact),
            "max": self.high.to(exact),
            "saturated": nothing if self.saturated is None else self.saturated.to(exact) / values,
            "dead": dead,
            "always_on": always_on,
            "identical": torch.where(padding, nothing, agrees) if self.mean.shape[1] > 1 else nothing,
            "rows": torch.full_like(exact, self.rows),
        }
        return torch.stack([table[name] for name in STATISTICS], dim=1)


def moments(
    outputs: Tensor, units: int, entry: Activation | None = None, pre_activations: Tensor | None = None
) -> Moments | None:
    """Measure the outputs of some layers of equal shape.

    Args:
        outputs: [layers, ...], floating point.
        units: the dimension of a layer's output that holds its units; all other positions are rows.
        entry: what the catalogue says of the activation that made the outputs, if one did.
        pre_activations: what went into it, shaped alike; None if that was overwritten in place.

    Returns:
        None for outputs without values.
    """
    if outputs.numel() == 0:
        return None
    h = outputs.detach()
    while h.ndim < 3:
        h = h.unsqueeze(-1)
    if h.element_size() < 4:  # sums of half precision overflow
        h = h.float()
    units = units % (h.ndim - 1) + 1
    over = [dimension for dimension in range(1, h.ndim) if dimension != units]
    mean = h.mean(over)
    rows = h[0].numel() // mean.shape[1]
    deviation = _deviation(h, mean, units, rows)
    reach = floor = saturated = None
    dead_below = -math.inf
    if entry is not None and entry.dead_below is not None:
        z = h if entry.dead_below == 0 else pre_activations
        if z is not None:
            reach, dead_below = z.detach().reshape(h.shape).amax(over), entry.dead_below
    if entry is not None and counts_always_on(entry):
        floor = h.amin(over)
        low, high = floor.amin(dim=1), (reach if entry.dead_below == 0 else h.flatten(1)).amax(dim=1)
    else:
        low, high = h.flatten(1).amin(dim=1), h.flatten(1).amax(dim=1)
    if entry is not None and entry.saturates:
        saturated = _count_outside(h, low, high, entry)
    return Moments(rows, mean, deviation, low, high, saturated, reach, dead_below, floor, _some_rows(h, units))


def _deviation(h: Tensor, mean: Tensor, units: int, rows: int) -> Tensor:
    """The norm of each layer of h minus the means of its units, [layers]."""
    shape = [size if dimension in (0, units) else 1 for dimension, size in enumerate(h.shape)]
    if len(h) > 1 or h.device.type != "cpu":
        return norm_of_each(h - mean.reshape(shape))
    total, of_means = float(norm(h)), float(norm(mean)) * rows**0.5
    if of_means * of_means < 0.5 * total * total < math.inf:  # little cancels: one pass is exact to 1e-5
        return torch.tensor([(total**2 - of_means**2) ** 0.5], dtype=torch.float64, device=h.device)
    return norm(h - mean.reshape(shape)).reshape(1)


def _some_rows(h: Tensor, units: int) -> Tensor:
    """A few rows, evenly spaced over the batch and its places, [layers, rows, units], as a copy."""
    rows = h.movedim(units, -1)
    return rows[(slice(None), *_evenly_spaced(rows.shape[1:-1]))]


@lru_cache
def _evenly_spaced(shape: torch.Size) -> tuple[Tensor, ...]:
    """The indices of at most DECIDABLE_ROWS places of an array, one tensor for each dimension."""
    count = math.prod(shape)
    places = torch.arange(min(count, DECIDABLE_ROWS)) * count // min(count, DECIDABLE_ROWS)
    return torch.unravel_index(places, shape)


def norm_of_each(h: Tensor) -> Tensor:
    """The norm of each layer of h, float64 [layers]."""
    return torch.linalg.vector_norm(h.reshape(len(h), -1), dim=1, dtype=_wide(h))


def _count_outside(h: Tensor, low: Tensor, high: Tensor, entry: Activation) -> Tensor:
    """How many values of each layer are saturated, [layers]; as floats, since sums over booleans are slow."""
    floor, ceiling = entry.flat_below, entry.flat_above
    if len(h) == 1 and h.device.type == "cpu":
        if (floor is None or low.item() >= floor) and (ceiling is None or high.item() <= ceiling):
            return torch.zeros_like(low)
    if floor is None:
        outside = torch.gt(h, ceiling, out=torch.empty_like(h))
    elif ceiling is None:
        outside = torch.lt(h, floor, out=torch.empty_like(h))
    else:
        outside = torch.sub(h, (floor + ceiling) / 2).abs_().gt_((ceiling - floor) / 2)
    return outside.flatten(1).sum(dim=1)
