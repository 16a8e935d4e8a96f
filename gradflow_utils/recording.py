"""Recording what flows through a network: activations forward, gradients backward, step by step."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import get_ident

import torch
from torch import Tensor, nn

from gradflow_utils.flow import BINS, FlowRecord
from gradflow_utils.layers import floating_tensors, run_uncompiled, weight_names
from gradflow_utils.statistics import norms, total_norm
from gradflow_utils.stepping import Step, spread
from gradflow_utils.training import check_has_parameters
from gradflow_utils.watching import LayerWatch


@contextmanager
def record(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] = (),
    *,
    every: int = 1,
    mode: str = "training",
    histograms: bool = False,
) -> Iterator[FlowRecord]:
    """Record activations, activation gradients, weight gradients and updates inside a with block.

        with gf.record(net, optimizer) as flow:
            gf.train(net, data, optimizer, steps=200)

    A step begins with a forward pass of `model` in training mode with gradients enabled. It ends
    with `optimizer.step()`, so that accumulated batches belong to one step; without an optimizer it
    ends with the backward pass. Layers are the activations, whether modules (`nn.ReLU`) or functions
    (`F.relu`, then named after the module that ran last), and recurrent modules. Functions are looked
    for where there is less than one activation module to two weight matrices; a network with fewer than
    one activation to eight weight matrices is recorded at all its modules with parameters as well. A
    layer that runs twice in one forward pass gets one column per call: `act`, `act:1`.

    The hooks live exactly as long as the block. If an exception ends it, the step that was under
    way is dropped, the finished steps are kept, and the exception passes on. A copy or a pickle
    that is made of the model inside the block records nothing. A compiled model runs uncompiled
    inside the block.

    Args:
        model: any module with parameters.
        optimizer: one or several that update the model: the true update ratio is measured. That
            takes a copy of their parameters for the length of the block.
        every: records one step in so many, the first among them.
        mode: "training", or "evaluation" to record the forward passes in eval mode or without
            gradients instead, each a step.
        histograms: keep histograms of activations and gradients (384 bytes per layer and step).

    Yields:
        The `FlowRecord`, which fills as the block runs.

    Raises:
        ValueError: the model has no parameters, `every` or `mode` is out of range.
        TypeError: `model` is not a module, or `optimizer` is neither an optimizer nor a sequence of them.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: got {_described(model)}, expected a torch.nn.Module; it comes before the optimizer")
    optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer
    if not isinstance(optimizers, Sequence) or not all(isinstance(one, torch.optim.Optimizer) for one in optimizers):
        raise TypeError(
            f"optimizer: got {_described(optimizer)}, expected a torch.optim.Optimizer or a list of them, not the "
            "parameters; leave it out if there is none"
        )
    if type(every) is not int or every < 1:
        raise ValueError(f"every: got {every!r}, expected a whole number, at least 1")
    if mode not in ("training", "evaluation"):
        raise ValueError(f"mode: got {mode!r}, expected 'training' or 'evaluation'")
    check_has_parameters(model)
    with ExitStack() as uncompiled:
        recorder = _Recorder(run_uncompiled(model, uncompiled), optimizers, every, mode == "training", histograms)
        try:
            recorder.start()
            yield recorder.flow
        except BaseException:
            recorder.drop_half_step()
            raise
        finally:
            recorder.stop()
    flow = recorder.flow
    if not len(flow) or not flow.layers:
        seen = "".join(f". Seen: {', '.join(names)}: {remark}" for remark, names in flow.notes.items())
        warnings.warn(
            "nothing was recorded: inside the block, call the model itself, in training mode (model.train()) and with "
            f"gradients enabled, not model.forward or a part of it; or use mode='evaluation'{seen}",
            stacklevel=3,
        )


class _Recorder:
    """Holds the hooks of one `record` block on the model and the optimizers; finds where steps begin and end."""

    # A copy of the model takes its hooks along; their recorder has these values alone and is never active.
    active = False
    step: Step | None = None
    in_pass = False
    in_update = False

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        every: int,
        training: bool,
        histograms: bool,
    ) -> None:
        self.model, self.optimizers, self.every = model, optimizers, every
        self.training, self.histograms = training, histograms
        self.parameters = dict(model.named_parameters())
        self.flow = FlowRecord(
            parameters=list(self.parameters), matrices=weight_names(model), _finish=self.close_finished_step
        )
        self.first = next((one, *named) for one in model.modules() for named in one.named_parameters(recurse=False))
        self.watch = LayerWatch(model, self.flow.note)
        self.count = 0  # steps begun
        self.handles: list = []

        index = {parameter: number for number, parameter in enumerate(self.parameters.values())}
        self.updated = {
            one: {index[p]: p for group in one.param_groups for p in group["params"] if p in index}
            for one in optimizers
        }
        if not all(self.updated.values()):
            raise ValueError(
                "optimizer: it holds no parameter of this model; make a new optimizer after each new model"
            )
        self.copies: dict[torch.optim.Optimizer, list[Tensor]] = {}  # of the parameters before the update

    def __reduce__(self):
        return _Recorder.__new__, (_Recorder,)

    # The block

    def start(self) -> None:
        self.active = True
        self.end_handle = self.model.register_forward_hook(self.end_pass, always_call=True)
        self.handles.append(self.model.register_forward_pre_hook(self.begin_pass))
        for optimizer in self.optimizers:
            self.handles.append(optimizer.register_step_pre_hook(self.before_update))
            self.handles.append(optimizer.register_step_post_hook(self.after_update))

    def stop(self) -> None:
        self.active = False
        if self.in_pass:  # interrupted
            self.drop_half_step()
        self.watch.detach()
        for handle in [*self.handles, self.end_handle]:
            handle.remove()
        self.close_step()
        flow = self.flow
        flow.settle()
        if flow.steps:
            for name in self.watch.never_called():
                flow.note("never called as a module, so not seen", name)
            held = {number for places in self.updated.values() for number in places}
            left_out = [name for number, name in enumerate(flow.parameters) if held and number not in held]
            for name in left_out:
                if self.parameters[name].requires_grad:
                    flow.note("trainable, but in no optimizer that was given", name)
            total, applied = flow["total_grad_norm"], flow["applied_grad_norm"]
            if not left_out and ((applied - total).abs() > 1e-3 * total).any():
                flow.note("changed between backward and optimizer.step(), by clipping or a GradScaler", "gradients")
        self.copies.clear()

    # Steps

    def is_finished(self, step: Step) -> bool:
        if not self.training:
            return not self.in_pass
        return bool(step.updated) if self.optimizers else step.backward_passes > 0

    def close_step(self) -> None:
        step, self.step = self.step, None
        if step is not None:
            step.write_to(self.flow)

    def close_finished_step(self) -> None:
        """The reader looks into the record inside the block."""
        if self.step is not None and self.is_finished(self.step):
            self.close_step()

    def drop_half_step(self) -> None:
        self.watch.stop()
        self.in_pass = False
        self.close_finished_step()
        if self.step is not None:
            self.step.discard()
            self.count = self.step.number
            self.step = None
            self.flow._losses.clear()

    def begin_pass(self, model: nn.Module, inputs: tuple) -> tuple | None:
        if not self.active or get_ident() != self.watch.thread:
            return
        if self.in_pass:
            self.flow.note(
                "a forward pass that did not end (interrupted, or it calls itself), dropped", type(model).__name__
            )
            self.drop_half_step()
        if (model.training and torch.is_grad_enabled()) != self.training:
            return
        owner, name, first = self.first
        transformed = torch._C._functorch.maybe_current_level() is not None or torch.jit.is_tracing()
        if transformed or getattr(owner, name) is not first:  # functional_call puts other tensors in its place
            return self.flow.note("called by torch.func or torch.jit, skipped", type(model).__name__)
        if first.is_meta:
            return self.flow.note("parameters without data (meta device), skipped", type(model).__name__)
        self.close_finished_step()
        if self.step is not None and self.was_skipped(self.step):
            self.close_step()
        if self.step is None:
            recorded = self.count % self.every == 0
            self.step = Step(
                self.count, recorded, self.parameters, {kind: {} for kind in BINS} if self.histograms else None
            )
            self.count += 1
            if recorded and not self.watch.handles:
                self.watch.attach()
                self.end_handle.remove()  # to stand behind the hooks of the watch, if the model itself is a layer
                self.end_handle = model.register_forward_hook(self.end_pass, always_call=True)
            elif not recorded:
                self.watch.detach()
        self.in_pass = True
        self.step.begin()
        if self.step.recorded:
            return self.watch.begin(self.step, inputs)

    def was_skipped(self, step: Step) -> bool:
        """Whether a GradScaler skipped the update: the gradients are gone without one, or are not finite."""
        if not step.backward_passes or self.in_update:  # in the update, a closure may clear the gradients
            return False
        infinite = step.total is not None and step.total.isinf() | step.total.isnan()
        return bool(infinite) or all(one.grad is None for one in self.parameters.values())

    def end_pass(self, model: nn.Module, inputs: tuple, output: object) -> None:
        if not self.in_pass or get_ident() != self.watch.thread:
            return
        if output is None and sys.exc_info()[0] is not None:
            return self.drop_half_step()  # the pass has failed, and the reader may go on after it
        self.in_pass = False
        step, tensor = self.step, next(floating_tensors(output), None)
        layer, latest = self.watch.latest
        if latest is not None and tensor is not None and tensor.layout == torch.strided and not tensor.is_nested:
            self.flow.output_layer = layer if latest.data_ptr() == tensor.data_ptr() else ""  # a view of it counts
        self.watch.end()
        if step.recorded or not self.optimizers:
            for tensor in floating_tensors(output):
                if tensor.requires_grad:
                    step.watch(tensor, step.note_backward)

    # Updates

    def before_update(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        self.in_update = True
        if self.step is not None and optimizer in self.step.updated:
            self.close_step()
        step, parameters = self.step, self.updated[optimizer].values()
        if not (step.recorded if step is not None else self.count % self.every == 0):
            return
        with torch.no_grad():
            if optimizer not in self.copies:
                self.copies[optimizer] = [torch.empty_like(parameter) for parameter in parameters]
            torch._foreach_copy_(self.copies[optimizer], list(parameters))
        if step is not None:  # else the forward pass is to come, in the optimizer's closure
            step.applied.append(total_norm(norms([one.grad for one in parameters if one.grad is not None])))

    def after_update(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        self.in_update = False
        step = self.step
        if step is None:
            return
        step.updated.add(optimizer)
        if step.recorded and optimizer in self.copies:
            with torch.no_grad():
                torch._foreach_sub_(self.copies[optimizer], list(self.updated[optimizer].values()))
            places = list(self.updated[optimizer])
            lengths = norms(self.copies[optimizer])
            if step.update_norms is None:
                step.update_norms = spread(lengths, places, step.weight_norms)
            else:  # another optimizer has other parameters
                step.update_norms[places] = lengths


def _described(argument: object) -> str:
    """What came instead of a model or an optimizer."""
    if isinstance(argument, type):
        return f"the class {argument.__name__}"
    if isinstance(argument, (list, tuple)) and argument:
        return f"a {type(argument).__name__} of {type(argument[0]).__name__}"
    return type(argument).__name__
