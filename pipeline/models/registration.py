"""Find what a network computes with, and what of it no file can hold: unregistered layers, parameters of others."""

import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.modules import module as all_modules
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from basis.modes import evaluation_mode
from pipeline.errors import OptionsError
from pipeline.runtime.randomness import RandomStream

logger = logging.getLogger(__name__)

_OWN: Final = frozenset(vars(nn.Module()))
"""Attributes of every module, in which torch registers its parts."""


def refuse_unregistered(model: nn.Module) -> None:
    """Check that no plain attribute holds parameters: they would be neither trained nor stored.

    References to registered layers and parameters are allowed.

    Raises:
        OptionsError: An attribute does; the message names it.
    """
    known = {id(parameter) for parameter in model.parameters()}
    for path, module in model.named_modules():
        for attribute in sorted(vars(module).keys() - _OWN):
            if not {id(parameter) for parameter in _parameters(vars(module)[attribute])} <= known:
                where = ".".join(filter(None, (path, attribute)))
                raise OptionsError(
                    f"the network {type(model).__name__} keeps layers or parameters in the plain attribute {where!r}, "
                    "so that they are in no state dict and would be missing in the file; allowed: nn.ModuleList, "
                    "nn.ModuleDict, nn.ParameterList or attributes of their own"
                )


def refuse_global_hooks(model: nn.Module, images: Tensor) -> None:
    """Check that no hook on all modules, as of ``register_module_forward_hook``, changes the outputs of a network.

    A file does not hold such a hook, and a network of other layers calls it for other modules.

    Args:
        model: The network.
        images: Some images, on its device.

    Raises:
        OptionsError: A hook does.
    """
    registered = (all_modules._global_forward_hooks, all_modules._global_forward_pre_hooks)
    if not any(registered):
        return
    found, kept = outputs_of(model, images), [dict(hooks) for hooks in registered]
    try:
        for hooks in registered:
            hooks.clear()
        without = outputs_of(model, images)
    finally:
        for hooks, before in zip(registered, kept, strict=True):
            hooks.update(before)
    if found.shape != without.shape or not torch.allclose(found, without, rtol=0.0, atol=0.0, equal_nan=True):
        raise OptionsError(
            f"a global hook, as of register_module_forward_hook, changes the outputs of the network "
            f"{type(model).__name__}, and no file holds such a hook; allowed: hooks of the network's own modules"
        )


@torch.no_grad()
def outputs_of(model: nn.Module, images: Tensor, stream: RandomStream | None = None) -> Tensor:
    """Return the outputs of a network in evaluation mode for a copy of images.

    Args:
        model: The network.
        images: Images, (N, C, H, W), on its device.
        stream: Its random numbers; None for those of seed 0.
    """
    with (stream or RandomStream(0, images.device)).drawn_from(), evaluation_mode(model):
        found: Tensor = model(images.clone())
    return found


def refuse_foreign(model: nn.Module, images: Tensor) -> None:
    """Check that a copy of a network does not compute with parameters of the network that it was copied from.

    It does, if a closure, a replaced method or a weak reference in it belongs to that network. Such parameters have the
    values of the copy's own; others, such as a constant kernel, do not.

    Args:
        model: The network.
        images: Some images, on its device.

    Raises:
        OptionsError: It does.
    """
    own = {id(parameter) for parameter in model.parameters()}
    with _UsedParameters() as used:
        outputs_of(model, images)
    foreign = [parameter for key, parameter in used.found.items() if key not in own]
    if any(_same_values(other, parameter) for other in foreign for parameter in model.parameters()):
        raise OptionsError(
            f"a copy of the network {type(model).__name__} does not compute with its own parameters: a replaced "
            "method, a closure or a weak reference refers to those of the original; allowed: a network that uses its "
            "parameters through self"
        )


def _same_values(one: Tensor, other: Tensor) -> bool:
    same = (one.shape, one.device) == (other.shape, other.device) and torch.equal(one, other)
    return same and bool((one != one.flatten()[:1]).any())  # constants of one value say nothing


class _UsedParameters(TorchFunctionMode):
    """Notes the parameters that functions of torch compute with.

    Attributes:
        found: Their ids, and the parameters themselves, so that no id is used again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, nn.Parameter] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) for value in tree_leaves(result)):  # not a shape or a type
            for value in tree_leaves((args, kwargs)):
                if isinstance(value, nn.Parameter):
                    self.found[id(value)] = value
        return result


def used_parameters(model: nn.Module, images: Tensor) -> set[str]:
    """Return the parameters on which the outputs depend; none if the network detaches its outputs."""
    parameters = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    frozen = [p for p in parameters.values() if not p.requires_grad]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with evaluation_mode(model), torch.enable_grad():
            total = model(images.clone()).float().sum()
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    except RuntimeError:
        return set()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def refuse_unstorable(model: nn.Module) -> None:
    """Check that a file can hold all tensors of a network, and warn of state that it does not hold.

    Raises:
        OptionsError: A parameter is missing in the state dict; a tensor is sparse or nested; or a buffer shares memory
            with a parameter.
    """
    kind = type(model).__name__
    for path, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            logger.warning(
                "%s in the network %s has extra state, which no file holds: a network into which a file is loaded must "
                "have it already",
                path or "a part",
                kind,
            )
    in_state = model.state_dict().keys()
    if missing := [name for name, _ in model.named_parameters() if name not in in_state]:
        raise OptionsError(
            f"the state dict of the network {kind} lacks the parameter {missing[0]!r}, as where a hook renames its "
            "entries; allowed: a network whose state dict has all parameters under their own names"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.layout != torch.strided or tensor.is_nested:
            layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
            raise OptionsError(
                f"the tensor {name!r} of the network {kind} is {layout}, which no file can hold; allowed: dense "
                "tensors, as from to_dense()"
            )
    refuse_shared_memory(model)


def refuse_shared_memory(model: nn.Module) -> None:
    """Check that no buffer shares memory with a parameter. A copy of the network would share none.

    Raises:
        OptionsError: A buffer does. Training changes both at once, and in a loaded network each has its own memory.
    """
    tensors = [(name, tensor, True) for name, tensor in model.named_buffers()]
    tensors += [(name, tensor, False) for name, tensor in model.named_parameters()]
    stored = [each for each in tensors if each[1].numel() and each[1].device.type != "meta"]
    ranges = sorted((str(tensor.device), *_addresses(tensor), name, buffer) for name, tensor, buffer in stored)
    furthest: dict[tuple[str, bool], tuple[int, str]] = {}  # device, and True for buffers -> end and name
    for device, start, end, name, buffer in ranges:
        other_end, other = furthest.get((device, not buffer), (start, ""))
        if start < other_end:
            own, shared = (name, other) if buffer else (other, name)
            raise OptionsError(
                f"the buffer {own!r} of the network {type(model).__name__} shares memory with the parameter "
                f"{shared!r}, which no file can hold; allowed: a buffer of its own, as from clone()"
            )
        furthest[device, buffer] = max(furthest.get((device, buffer), (end, name)), (end, name))


def _addresses(tensor: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def refuse_changing_parameters(model: nn.Module) -> None:
    """Check that a network has the same parameters in training and in evaluation mode.

    Args:
        model: The network in evaluation mode; it is changed, so pass a copy.

    Raises:
        OptionsError: Its mode changes a parameter, as where updates of low rank are merged into weights.
    """
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    for name, parameter in model.named_parameters():
        if name not in before or not torch.equal(parameter.detach(), before[name]):
            raise OptionsError(
                f"the parameter {name!r} of the network {type(model).__name__} changes with the mode, so that training "
                "cannot be undone or stored; allowed: a network whose train() and eval() change no parameter, or no "
                "training"
            )


def _parameters(value: Any, depth: int = 3) -> Iterator[nn.Parameter]:
    """Yield the parameters in a value, and in lists, tuples, sets and dicts of so many levels."""
    if isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    elif depth and isinstance(value, list | tuple | set | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _parameters(each, depth - 1)
