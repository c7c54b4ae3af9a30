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

OWN: Final = frozenset(vars(nn.Module()))
"""Attributes of every module, in which torch registers its parts."""


def refuse_unregistered(model: nn.Module) -> None:
    """Check that no plain attribute holds parameters: they would be neither trained nor stored.

    References to registered layers and parameters are allowed.

    Raises:
        OptionsError: A plain attribute holds parameters; the message names it.
    """
    known = {id(parameter) for parameter in model.parameters()}
    for path, module in model.named_modules():
        for attribute in sorted(vars(module).keys() - OWN):
            if not {id(parameter) for parameter in _parameters(vars(module)[attribute])} <= known:
                where = ".".join(filter(None, (path, attribute)))
                raise OptionsError(
                    f"the network {type(model).__name__} keeps layers or parameters in the plain attribute {where!r}, "
                    "so that they are in no state dict and would be missing in the file; allowed: nn.ModuleList, "
                    "nn.ModuleDict, nn.ParameterList or attributes of their own"
                )


def plain_holder(model: nn.Module, layer: nn.Module) -> str | None:
    """Return the first plain attribute, a list, dict or object, that holds a registered layer; None without one."""
    parameters = {id(parameter) for parameter in layer.parameters()}
    for path, module in model.named_modules():
        for attribute in sorted(vars(module).keys() - OWN):
            if parameters & {id(parameter) for parameter in _parameters(vars(module)[attribute])}:
                return ".".join(filter(None, (path, attribute)))
    return None


def refuse_global_hooks(model: nn.Module, images: Tensor) -> None:
    """Check that no hook on all modules, as of ``register_module_forward_hook``, changes the outputs of a network.

    A file does not hold such a hook, and a network of other layers calls it for other modules.

    Args:
        model: The network.
        images: Some images, on its device.

    Raises:
        OptionsError: A global hook changes the outputs.
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
    return found.detach()  # a forward may enable gradients


def refuse_foreign(model: nn.Module, images: Tensor) -> None:
    """Check that a network computes with no trainable parameters but those that it registers.

    A local variable, a plain object or a closure may hold others. In a copy, a closure, a replaced method or a weak
    reference may still refer to the parameters of the original. Constants without a gradient are allowed.

    Args:
        model: The network.
        images: Some images, on its device.

    Raises:
        OptionsError: It computes with others.
    """
    own = {id(parameter) for parameter in model.parameters()}
    with _UsedParameters() as used:
        outputs_of(model, images)
    with _UsedParameters() as again:
        outputs_of(model, images)
    # A parameter that the forward itself makes is another one in each pass.
    foreign = [parameter for key, parameter in used.found.items() if key not in own and key in again.found]
    copied = any(_same_values(other, parameter) for other in foreign for parameter in model.parameters())
    if copied or any(parameter.requires_grad for parameter in foreign):
        raise OptionsError(
            f"the network {type(model).__name__}, or a copy of it, computes with parameters that it does not register: "
            "those of a local variable, a plain object, a closure, a replaced method or a weak reference; allowed: a "
            "network that registers all its parameters and uses them through self, and constants without requires_grad"
        )


def _same_values(one: Tensor, other: Tensor) -> bool:
    same = (one.shape, one.device) == (other.shape, other.device) and torch.equal(one, other)
    return same and bool((one != one.flatten()[:1]).any())  # constants of one value are no evidence


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
        OptionsError: A parameter is missing in the state dict. A tensor is quantized, sparse, nested or expanded. A
            parameter shares memory with another tensor.
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
    in_state = model.state_dict()
    for name, value in in_state.items():
        if any(isinstance(part, torch.ScriptObject) or _is_quantized(part) for part in tree_leaves(value)):
            raise OptionsError(
                f"the entry {name!r} in the state dict of the network {kind} holds quantized tensors, as of a layer of "
                "torch.ao.quantization, which no file can hold; allowed: the network before it was quantized"
            )
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
        expanded = any(stride == 0 and size > 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        if expanded and name in in_state:
            raise OptionsError(
                f"the tensor {name!r} of the network {kind} is expanded: several of its values are one in memory, so "
                "no file can be read into it; allowed: values of their own, as from expand(...).clone()"
            )
    refuse_shared_memory(model)


def _is_quantized(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_quantized


def refuse_shared_memory(model: nn.Module) -> None:
    """Check that no parameter shares memory with a buffer or with another parameter. In a copy each has its own.

    Raises:
        OptionsError: One does. Training changes both at once, and in a loaded network each has its own memory.
    """
    tensors: list[tuple[str, str, Tensor]] = [("buffer", *each) for each in model.named_buffers()]
    tensors += [("parameter", *each) for each in model.named_parameters()]
    stored = [each for each in tensors if each[2].numel() and each[2].device.type != "meta"]
    ranges = sorted((str(each[2].device), *_addresses(each[2]), index) for index, each in enumerate(stored))
    reaching: list[tuple[str, int, int]] = []  # device, end and index of the tensors that may reach the next one
    for device, start, end, index in ranges:
        reaching = [other for other in reaching if other[0] == device and other[1] > start]
        for _, _, other in reaching:
            kinds = {stored[index][0], stored[other][0]}
            if "parameter" in kinds and _overlap(stored[index][2], stored[other][2]):
                (_, name, _), (kind, first, _) = sorted((stored[index], stored[other]), key=lambda each: each[0])
                raise OptionsError(
                    f"the {min(kinds)} {name!r} of the network {type(model).__name__} shares memory with the {kind} "
                    f"{first!r}, which no file can hold; allowed: memory of its own, as from clone(), or one parameter "
                    "under both names"
                )
        reaching.append((device, end, index))


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Return True if two tensors have an element in common; the gaps of one may hold the other."""
    if one.element_size() != other.element_size():  # a view of another type
        return True
    return bool(torch.isin(_element_addresses(one), _element_addresses(other)).any())


def _element_addresses(tensor: Tensor) -> Tensor:
    found = torch.tensor(tensor.data_ptr(), dtype=torch.int64)
    for size, step in zip(tensor.shape, tensor.stride(), strict=True):
        found = found[..., None] + torch.arange(size) * (step * tensor.element_size())
    return found.flatten()


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
