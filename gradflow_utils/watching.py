"""The hooks on the layers of a model: they show each output of a forward pass to the step under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from threading import get_ident

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradflow_utils.activations import ACTIVATIONS, Activation
from gradflow_utils.layers import (
    catalogue_entry,
    channel_dimensions,
    floating_tensors,
    function_name,
    is_activation,
    is_weighted,
    own_parameters,
)
from gradflow_utils.statistics import SMALL, moments, norm_of_each, norms
from gradflow_utils.stepping import Step

_RECURRENT = (nn.RNNBase, nn.RNNCellBase)  # their activations are inside, out of sight


class LayerWatch:
    """Watches the layers of a model during the forward passes of its steps.

    Layers are the activations, modules or functions, and recurrent modules. A network with fewer
    than one activation to eight weight matrices is watched at all modules with parameters as well.
    """

    # A copy of the model takes its hooks along; their watch has these values alone and sees nothing.
    step: Step | None = None  # during a forward pass
    functions: _Functions | None = None
    in_activation = False

    def __init__(self, model: nn.Module, note: Callable[[str, str], None]) -> None:
        self.model, self.note, self.thread = model, note, get_ident()
        self.names = {module: name or type(model).__name__ for name, module in model.named_modules()}
        self.units = channel_dimensions(model)
        self.entries = {module: catalogue_entry(module) for module in self.names if is_activation(module)}
        weighted = sum(map(is_weighted, self.names))
        self.enough = max(1, weighted / 8)
        self.at_parameters = len(self.entries) < self.enough
        self.watches_functions = len(self.entries) < max(1, weighted / 2)  # the others are probably functions
        self.running = [module for module in self.names if getattr(module, "track_running_stats", False)]
        self.with_parameters = [
            module for module in self.names if own_parameters(module) and (module is not model or len(self.names) == 1)
        ]
        self.activation_layers: set[str] = set()
        self.makeshift_layers: set[str] = set()  # watched for want of activations
        self.calls: Counter[str] = Counter()  # of each layer in the forward pass under way
        self.called: set[nn.Module] = set()  # in any forward pass
        self.last: nn.Module | None = None  # the module with parameters that ran last
        self.waiting: dict[tuple, dict[str, tuple[Tensor, Tensor | None]]] = {}  # small outputs, by what they share
        self.latest: tuple[str, Tensor | None] = "", None  # output in the forward pass under way
        self.handles: list = []

    def __reduce__(self):
        return LayerWatch.__new__, (LayerWatch,)

    def attach(self) -> None:
        """Set the hooks; they cost nothing between the forward passes."""
        for module in self.entries:
            self.handles.append(module.register_forward_hook(self.see_activation))
            if self.watches_functions:
                self.handles.append(module.register_forward_pre_hook(self.begin_activation))
        for module in self.with_parameters:
            recurrent = isinstance(module, _RECURRENT)
            if self.watches_functions or recurrent:
                self.handles.append(module.register_forward_hook(self.see_module))
            if isinstance(module, nn.RNNBase) and module is not self.model:
                self.handles.append(module.register_forward_pre_hook(self.see_time_steps))

    def detach(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def begin(self, step: Step, inputs: tuple) -> tuple | None:
        """A forward pass begins; return the inputs of the model if they are to be replaced."""
        self.step, self.last, self.in_activation = step, None, False
        self.calls.clear()
        for module in self.running if self.model.training else ():
            if not module.training:
                self.note("in evaluation mode while the model trains: normalised by running statistics", self.names[module])
        if self.watches_functions:
            self.functions = _Functions(self.see_function)
            self.functions.__enter__()
        # A hook that is set within the call of the model does not run in it any more.
        return self.see_time_steps(self.model, inputs) if isinstance(self.model, nn.RNNBase) else None

    def stop(self) -> None:
        """Stop watching. What runs until the next forward pass is no part of it: checkpointing, a layer alone."""
        self.step = None
        self.latest = "", None
        self.waiting.clear()
        if self.functions is not None:
            self.functions.__exit__(None, None, None)
            self.functions = None

    def end(self) -> None:
        """The forward pass has ended well: measure the small outputs."""
        step, waiting = self.step, self.waiting
        self.waiting = {}
        self.stop()
        if step is None:
            return
        if self.at_parameters and len(self.activation_layers) >= self.enough:
            self.at_parameters = False  # the activations turned out to be functions: they are the layers
            for name in self.makeshift_layers & step.layers.keys():
                del step.layers[name]
                step.moments.pop((name,), None)
        for (_, _, _, units, entry, _), layers in waiting.items():
            layers = {name: pair for name, pair in layers.items() if name in step.layers}
            if layers:
                outputs, inputs = zip(*layers.values())
                inputs = None if inputs[0] is None else torch.stack(inputs)
                step.add(tuple(layers), moments(torch.stack(outputs), units, entry, inputs))

    def never_called(self) -> list[str]:
        """The modules that should have been seen but were never called, though their weights may have been used."""
        watched = [*self.entries, *(self.with_parameters if self.watches_functions else ())]
        return [self.names[module] for module in watched if module not in self.called]

    # Hooks

    @property
    def in_pass(self) -> bool:
        return self.step is not None and get_ident() == self.thread  # not in a pass of another thread meanwhile

    def begin_activation(self, module: nn.Module, inputs: tuple) -> None:
        self.in_activation = True  # the functions that it calls are its own affair

    def see_activation(self, module: nn.Module, inputs: tuple, output: object) -> None:
        self.in_activation = False
        if self.in_pass:
            self.called.add(module)
            overwritten = getattr(module, "inplace", False) or not inputs
            z = None if overwritten else inputs[0]
            self.activation_layers.add(
                self.see(self.names[module], output, self.units[module], self.entries[module], z)
            )

    def see_function(self, function: Callable, args: tuple, output: object) -> None:
        name = function_name(function)
        if name is None or self.in_activation or self.step is None:
            return
        z = None if not args or output is args[0] else args[0]
        layer = f"{self.names[self.last]}.{name}" if self.last is not None else name
        self.activation_layers.add(self.see(layer, output, self.units.get(self.last, -1), ACTIVATIONS.get(name), z))

    def see_module(self, module: nn.Module, inputs: tuple, output: object) -> None:
        if self.in_pass:
            self.last, name = module, self.names[module]
            self.called.add(module)
            if isinstance(module, _RECURRENT):
                self.see(name, output, self.units[module], ACTIVATIONS.get(getattr(module, "nonlinearity", "")))
            elif self.at_parameters:
                self.makeshift_layers.add(self.see(name, output, self.units[module]))

    def see(
        self, layer: str, output: object, units: int, entry: Activation | None = None, z: Tensor | None = None
    ) -> str:
        """Measure one output, and return the name under which it stands in the record."""
        step, tensor, name = self.step, next(floating_tensors(output), None), self.name_of_call(layer)
        self.calls[layer] += 1
        if tensor is None:
            self.note("no floating-point output, skipped", name)
        elif torch._C._functorch.maybe_current_level() is not None:
            self.note("called by torch.func or torch.jit, skipped", name)
        elif (
            type(tensor) not in (Tensor, nn.Parameter)
            or tensor.is_meta
            or tensor.layout != torch.strided
            or tensor.is_nested
        ):
            self.note(f"output is a {type(tensor).__name__} that is not dense or has no data, skipped", name)
        else:
            with torch._C.DisableTorchFunction():
                step.layers[name] = None
                self.latest = name, tensor
                if entry is None or not entry.dead_below or not isinstance(z, Tensor) or z.shape != tensor.shape:
                    z = None
                self.measure(name, tensor.detach(), units, entry, z)
                if tensor.requires_grad:
                    step.watch(tensor, partial(step.see_gradient, name))
        return name

    def name_of_call(self, layer: str) -> str:
        return f"{layer}:{self.calls[layer]}" if self.calls[layer] else layer

    def measure(self, name: str, h: Tensor, units: int, entry: Activation | None, z: Tensor | None) -> None:
        z = None if z is None else z.detach()
        if h.numel() > SMALL:
            self.step.add((name,), moments(h[None], units, entry, None if z is None else z[None]))
        elif h.numel() > 0:  # copied now, since what follows may write over it, and measured when the pass ends
            alike = self.waiting.setdefault((h.shape, h.dtype, h.device, units, entry, z is None), {})
            alike[name] = h.clone(), None if z is None else z.clone()
        self.step.add_histogram("activation", name, h)

    def see_time_steps(self, module: nn.RNNBase, inputs: tuple) -> tuple | None:
        """Give a recurrent module an input of its own that receives a gradient, time step by time step."""
        given, step = inputs[0] if inputs else None, self.step
        packed = isinstance(given, nn.utils.rnn.PackedSequence)
        x = given.data if packed else given
        if not self.in_pass or not torch.is_grad_enabled() or not isinstance(x, Tensor) or not x.is_floating_point():
            return None
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        time = 1 if module.batch_first and x.ndim == 3 and not packed else 0
        sizes = given.batch_sizes.tolist() if packed else None
        name = self.name_of_call(self.names[module])

        def see_gradient(gradient: Tensor) -> None:
            lengths = norms(gradient.split(sizes)) if packed else norm_of_each(gradient.movedim(time, 0))
            last = (lengths > 0).flip(0).long().argmax()  # what stands behind it is padding
            step.time_steps[name].append(torch.stack((lengths[0], lengths.flip(0)[last])))

        step.watch(x, see_gradient)
        return (given._replace(data=x) if packed else x, *inputs[1:])


class _Functions(TorchFunctionMode):
    """Shows every call of a torch function inside the block to `see`."""

    def __init__(self, see: Callable[[Callable, tuple, object], None]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        self.see(function, args, output)
        return output
