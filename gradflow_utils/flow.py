"""What a recording holds: quantities by step and layer, as tensors or as a table."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradflow_utils.statistics import STATISTICS, Moments

if TYPE_CHECKING:
    import numpy as np
    import pandas

LAYER_QUANTITIES = (*STATISTICS, "grad_norm", "time_ratio")
PARAMETER_QUANTITIES = ("weight_norm", "weight_grad_norm", "update_ratio")
STEP_QUANTITIES = ("loss", "total_grad_norm", "applied_grad_norm", "backward_passes")
QUANTITIES = LAYER_QUANTITIES + PARAMETER_QUANTITIES + STEP_QUANTITIES
BINS = {"activation": 32, "gradient": 60}
GRADIENT_DECADES = (-20.0, 10.0)  # the range of the histogram of gradients, as powers of ten
FROZEN = "no gradient: frozen (requires_grad=False)"  # a note
_PACK = 64  # steps that are packed into one tensor
_TOGETHER = 8  # steps whose statistics are computed together


class Table:
    """One block of values [names, quantities] per step; the names may change from step to step."""

    def __init__(self) -> None:
        self._packed: list[tuple[tuple[str, ...], Tensor]] = []  # names, [steps, names, quantities]
        self._waiting: list[Tensor] = []
        self._names: tuple[str, ...] = ()

    def append(self, names: Sequence[str], block: Tensor) -> None:
        """Add the values of one step, [names, quantities]."""
        names = tuple(names)
        if self._waiting and (
            names != self._names or len(self._waiting) == _PACK or block.dtype != self._waiting[0].dtype
        ):
            self.pack()
        if names != self._names:  # else keep the one tuple that all steps share
            self._names = names
        self._waiting.append(block)

    def pack(self) -> None:
        """Put the steps that wait into one tensor."""
        if self._waiting:
            self._packed.append((self._names, torch.stack(self._waiting)))
            self._waiting = []

    def read(self, names: Sequence[str], quantity: int | slice) -> Tensor:
        """float64 [steps, names] of one quantity, or [steps, names, quantities]; NaN where a step lacks the name."""
        parts = []
        self.pack()
        for own, values in self._packed:
            values = values[:, :, quantity].to("cpu", torch.float64)
            part = values.new_full((len(values), len(names), *values.shape[2:]), math.nan)
            place = {name: column for column, name in enumerate(own)}
            wanted = [column for column, name in enumerate(names) if name in place]
            part[:, wanted] = values[:, [place[names[column]] for column in wanted]]
            parts.append(part)
        return torch.cat(parts) if parts else torch.empty(0, len(names), dtype=torch.float64)


def do_nothing() -> None:
    pass


@dataclass(repr=False, eq=False)
class FlowRecord:
    """What `record` saw: one row per recorded step, one column per layer or parameter.

    `flow["grad_norm"]` is a float64 tensor [steps, columns]. The columns of a layer quantity are
    named by `flow.layers`, in the order in which the layers ran:

        mean, std, min, max   over all values of the layer's output
        row_std               the signal: how much the output differs between rows (standard
                              deviation over rows, root mean square over units)
        saturated             share of outputs where the slope is below 6 % of its maximum
        dead                  share of units that are off on every row: no positive output of a ReLU,
                              a slope below 5 % of a smooth relative such as GELU; undecided below 16 rows
        always_on             share of ReLU or leaky ReLU units that are positive on every row
        identical             share of units that give the same as the layer's first unit, on some rows
        rows                  rows in this step. A row is a sample and, in images and sequences, one
                              place of it; a unit is a channel of an image, a feature of a sequence
        grad_norm             Euclidean norm of dL/d(output), over the whole batch, times the scale of a
                              GradScaler
        time_ratio            nn.RNN, nn.LSTM, nn.GRU: norm of dL/d(input) at the first time step
                              over that at the last

    The columns of a parameter quantity are named by `flow.parameters`:

        weight_norm           Euclidean norm of the parameter when the step began
        weight_grad_norm      Euclidean norm of its gradient as the backward passes left it: before
                              clipping, and times the scale of a GradScaler
        update_ratio          norm of what optimizer.step() changed, over weight_norm

    A quantity of the whole step is a tensor [steps]:

        loss                  mean of what `add_loss` was given
        total_grad_norm       norm over all parameters, as weight_grad_norm
        applied_grad_norm     the same when optimizer.step() began: after clipping and unscaling
        backward_passes       how many backward passes the step had

    NaN stands for "there was none", with the reason in `notes`. `steps` are the numbers of the
    recorded steps, `weights` the parameters that are matrices or kernels, `output_layer` the layer
    whose output is that of the model, if there is one, and `notes` maps each remark on what could not be seen to the names it concerns.
    Batches that were accumulated into one step are pooled, and several backward passes through one
    output count like batches.
    """

    layers: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    matrices: set[str] = field(default_factory=set)
    has_loss: bool = False
    output_layer: str = ""  # the layer whose output is that of the model, if there is one
    _unmeasured: list[dict[tuple[str, ...], Moments]] = field(default_factory=list)  # of the latest steps
    _forward: Table = field(default_factory=Table)
    _backward: Table = field(default_factory=Table)
    _parameter: Table = field(default_factory=Table)
    _gradient: Table = field(default_factory=Table)
    _step: Table = field(default_factory=Table)
    _histograms: dict[str, Table] = field(default_factory=lambda: {which: Table() for which in BINS})
    _losses: list[Tensor] = field(default_factory=list)  # of the step under way
    _over: bool = False
    _finish: Callable[[], None] = do_nothing  # inside the block: writes the step under way, if it is finished

    def __repr__(self) -> str:
        return f"FlowRecord({len(self)} steps, {len(self.layers)} layers, {len(self.parameters)} parameters)"

    def __len__(self) -> int:
        self._finish()
        return len(self.steps)

    @property
    def weights(self) -> list[str]:
        """The parameters that are weight matrices or kernels: not the biases, not the scales of a norm."""
        return [name for name in self.parameters if name in self.matrices]

    def __getitem__(self, quantity: str) -> Tensor:
        """All steps of one quantity, float64 [steps, columns], or [steps] for one of the whole step.

        Raises:
            KeyError: no such quantity; the message lists those there are.
        """
        self._finish()
        if quantity in STATISTICS:
            self.measure()
            return self._forward.read(self.layers, STATISTICS.index(quantity))
        if quantity in LAYER_QUANTITIES:
            return self._backward.read(self.layers, LAYER_QUANTITIES.index(quantity) - len(STATISTICS))
        if quantity == "weight_grad_norm":
            return self._gradient.read(self.parameters, 0)
        if quantity in PARAMETER_QUANTITIES:
            return self._parameter.read(self.parameters, int(quantity == "update_ratio"))
        if quantity in STEP_QUANTITIES:
            return self._step.read(("",), STEP_QUANTITIES.index(quantity))[:, 0]
        raise KeyError(f"{quantity!r} is not recorded; expected one of {', '.join(QUANTITIES)}")

    def histograms(self, which: str) -> tuple[Tensor, Tensor]:
        """The histograms of a record that was made with `histograms=True`.

        Args:
            which: "activation" or "gradient", which is that of log10 |dL/d(output)|.

        Returns:
            Shares of the values in each bin [steps, layers, bins], and the edges of the bins
            [steps, layers, bins + 1]. Exact zeros of the gradient are in no bin. Of accumulated batches
            the first counts.
        """
        if which not in BINS:
            raise ValueError(f"which: got {which!r}, expected 'activation' or 'gradient'")
        counts = self._histograms[which].read(self.layers, slice(None))
        if counts.ndim < 3:
            raise ValueError("flow: it holds no histograms; make it with gf.record(model, histograms=True)")
        low, high = counts[..., -2, None], counts[..., -1, None]
        return counts[..., :-2], low + (high - low) * torch.linspace(0, 1, BINS[which] + 1, dtype=torch.float64)

    def add_moments(self, moments: dict[tuple[str, ...], Moments]) -> None:
        """Take what a step measured of its layers' outputs, by their names."""
        self._unmeasured.append(moments)
        if len(self._unmeasured) == _TOGETHER:
            self.measure()

    def measure(self) -> None:
        """Compute the statistics of the latest steps: of all alike layers at once, since small tensors cost as much as large."""
        waiting, self._unmeasured = self._unmeasured, []
        alike: dict[tuple, list[Moments]] = {}
        for step in waiting:
            for one in step.values():
                alike.setdefault(one.kind, []).append(one)
        blocks = {}
        for kind, several in alike.items():
            table = Moments.joined(several).statistics().to(several[0].mean.dtype)
            blocks[kind] = iter(table.split([len(one.low) for one in several]))
        for step in waiting:
            rows = [next(blocks[one.kind]) for one in step.values()]
            names = [name for names in step for name in names]
            self._forward.append(names, torch.cat(rows) if rows else torch.empty(0, len(STATISTICS)))

    def settle(self) -> None:
        """The recording is over: keep what was measured as compactly as possible."""
        self.measure()
        for table in (self._forward, self._backward, self._parameter, self._gradient, self._step, *self._histograms.values()):
            table.pack()
        self._finish, self._over = do_nothing, True

    def add_loss(self, loss: Tensor) -> None:
        """Give the record the loss of the step under way, a scalar; several of one step are averaged."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(f"loss: got {type(loss).__name__}, expected a scalar tensor, such as loss_fn(model(x), y)")
        if self._over:
            raise ValueError("loss: the recording is over; call add_loss inside the block")
        self.has_loss = True
        self._losses.append(loss.detach().reshape(()))

    def check_has_steps(self) -> None:
        """Raise ValueError if there is nothing to look at."""
        if len(self) == 0:
            raise ValueError(
                "flow: the record holds no step that has finished; inside the record block run forward, backward and, "
                "if it was given, the optimizer's step, in training mode"
            )

    def note(self, remark: str, name: str) -> None:
        """Add the name of a layer or parameter to those that a remark concerns."""
        names = self.notes.setdefault(remark, [])
        if name not in names:
            names.append(name)

    def to_frame(self) -> pandas.DataFrame:
        """A tidy table with the columns step, name (of the layer or parameter), quantity and value."""
        import pandas

        frames = []
        for quantity in QUANTITIES:
            values = self[quantity].reshape(len(self), -1)
            names = self.layers if quantity in LAYER_QUANTITIES else self.parameters
            names = ["all parameters"] if quantity in STEP_QUANTITIES else names
            index = pandas.MultiIndex.from_product([self.steps, names], names=["step", "name"])
            frames.append(
                pandas.DataFrame({"quantity": quantity, "value": values.flatten()}, index=index).reset_index()
            )
        return pandas.concat(frames, ignore_index=True)


def median_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """The median without the NaNs; NaN where there is nothing else."""
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about rows of nothing but NaN
        return np.nanmedian(values, axis=axis)
