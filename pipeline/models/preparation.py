"""Convert a user's network to plain modules: without wrappers, lazy parts and parametrizations."""

import weakref
from collections.abc import Mapping
from types import MethodType
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel

from basis.copying import compiled_attributes, copy_network, has_graph, plain_function
from basis.modes import evaluation_mode
from basis.regular import has_own_forward
from basis.swap import replace_modules
from pipeline.errors import DataError, OptionsError, described

_WRAPPERS: Final = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
# Classes of the forward pre-hooks with which the old functions of torch.nn.utils compute a weight.
_OLD_HOOKS: Final = {"WeightNorm": "remove_weight_norm", "SpectralNorm": "remove_spectral_norm"}


def without_wrappers(model: nn.Module) -> nn.Module:
    """Return a network without wrappers around any part.

    Wrappers are ``DataParallel``, ``DistributedDataParallel``, ``AveragedModel`` and ``torch.compile``. Methods that
    ``torch.compile`` decorates become plain methods of the network, because compiled ones run no hooks of layers.

    Args:
        model: The network; parts of it are replaced in place.
    """
    model = unwrapped(model)
    for module in model.modules():
        if module._compiled_call_impl is not None:  # of nn.Module.compile
            module._compiled_call_impl = None
        _set_plain_methods(module)
    replacements: dict[nn.Module, nn.Module] = {}
    for module in model.modules():
        inner = _wrapped(module)
        while inner is not None and (further := _wrapped(inner)) is not None:
            inner = further
        if inner is not None:
            replacements[module] = inner
    return replace_modules(model, replacements)


def _set_plain_methods(module: nn.Module) -> None:
    """Give a module plain methods in place of the compiled ones of its class and its attributes.

    A layer keeps those of its class: its own hooks run, and a forward in its attributes would keep it from a series.
    """
    vars(module).update(compiled_attributes(module))
    if isinstance(module, nn.Conv2d | nn.Linear):
        return
    members = {name: value for kind in reversed(type(module).__mro__) for name, value in vars(kind).items()}
    for name, value in members.items():
        if (function := plain_function(value)) is not None:
            vars(module).setdefault(name, MethodType(function, module))


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside the outermost wrappers; see ``without_wrappers``. Nothing is changed.

    Raises:
        OptionsError: A part holds itself. A part is a weak reference, which ``nn.Module`` takes for a module. A part is
            a program of ``torch.export``. The method ``parameters`` yields other objects than tensors.
    """
    while (inner := _wrapped(model)) is not None:
        model = inner
    _refuse_endless(model, "", ())
    _refuse_special(model)
    return model


def _refuse_special(model: nn.Module) -> None:
    """Check that a network has modes, and lists its parameters as every ``nn.Module`` does."""
    kind = type(model).__name__
    if any(isinstance(part, GraphModule) and "eval" in vars(part) for part in model.modules()):
        raise OptionsError(
            f"the network {kind} is or holds a program of torch.export, which has no evaluation mode; allowed: the "
            "nn.Module that was exported"
        )
    if not all(isinstance(parameter, Tensor) for parameter in model.parameters()):
        raise OptionsError(
            f"parameters() of the network {kind} yields other objects than tensors; allowed: another name for a method "
            "that lists groups of an optimizer"
        )


def _refuse_endless(module: nn.Module, path: str, above: tuple[nn.Module, ...]) -> None:
    """Check that no walk over the parts is endless. ``nn.Module.modules`` cannot be used before."""
    above = (*above, module)
    for name, part in module._modules.items():
        where = f"{path}.{name}".removeprefix(".")
        if type(part) in weakref.ProxyTypes or any(part is each for each in above):
            kind = "a weak reference to a module" if type(part) in weakref.ProxyTypes else "a module that holds it"
            raise OptionsError(
                f"the attribute {where!r} of the network {type(above[0]).__name__} is {kind}, which torch registers as "
                "a part of it; allowed: weakref.ref(module), which it does not register"
            )
        if part is not None:
            _refuse_endless(part, where, above)


def _wrapped(module: nn.Module) -> nn.Module | None:
    if isinstance(module, _WRAPPERS):
        return cast(nn.Module, module.module)
    compiled = type(module).__name__ == "OptimizedModule" and type(module).__module__.startswith("torch._dynamo")
    return module._modules.get("_orig_mod") if compiled else None


def initialize_lazy_modules(model: nn.Module, example: Tensor) -> None:
    """Give lazy modules their shapes by one forward pass in evaluation mode, in place.

    Args:
        model: The network.
        example: Images of the data, (N, C, H, W).

    Raises:
        OptionsError: A lazy module does not run.
    """
    if any(isinstance(module, LazyModuleMixin) for module in model.modules()):
        with evaluation_mode(model), torch.no_grad():
            model(example)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise OptionsError(
                f"{name!r} of the network {type(model).__name__} has no shape yet, because its lazy layer does not run "
                "in evaluation mode; allowed: layers with shapes, such as nn.Linear(8, 10)"
            )


def fold_parametrizations(model: nn.Module) -> nn.Module:
    """Replace every computed parameter by its effective value, in place.

    These are parametrizations of ``torch.nn.utils.parametrize``, weight and spectral normalization of either style, and
    the masks of ``torch.nn.utils.prune``. The attributes of layers become those of their weights: channels that were
    pruned by hand are not counted any more.

    Args:
        model: The network with its trained values; it is set to evaluation mode meanwhile.

    Returns:
        The network.
    """
    with evaluation_mode(model), torch.no_grad():
        for module in model.modules():
            if parametrize.is_parametrized(module):
                for name in list(cast(Mapping[str, nn.Module], module.parametrizations)):
                    _fold(module, name)
            _fold_old_hooks(module)
            _settle_attributes(module)
    return model


def _settle_attributes(layer: nn.Module) -> None:
    """Set the attributes of a layer with the forward of torch's class to what it does. Other forwards may read them."""
    if not isinstance(layer, nn.Conv2d | nn.Linear) or has_own_forward(layer):
        return
    weight = layer._parameters.get("weight")
    if weight is None or any(method in vars(layer) for method in ("forward", "_conv_forward")):
        return
    if isinstance(layer, nn.Linear) and weight.ndim == 2:
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.Conv2d) and weight.ndim == 4 and layer.padding_mode == "zeros":
        layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * layer.groups
        layer.stride, layer.dilation = _pair(layer.stride), _pair(layer.dilation)
        if not isinstance(layer.padding, str):
            layer.kernel_size, layer.padding = (weight.shape[2], weight.shape[3]), _pair(layer.padding)
            layer._reversed_padding_repeated_twice = [each for each in reversed(layer.padding) for _ in range(2)]


def _pair(value: Any) -> tuple[int, int]:
    """Return a value of both axes, or of each, as torch's functions take it."""
    height, width = (value, value) if isinstance(value, int) else (*value, *value)[:2]
    return int(height), int(width)


def _fold(module: nn.Module, name: str) -> None:
    originals = list(cast(Mapping[str, nn.Module], module.parametrizations)[name].parameters())
    value = getattr(module, name).detach().clone()
    # A copy of a parametrized module has the same class, and removing deletes a property of the class.
    kind = type(module)
    module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
    parametrize.remove_parametrizations(module, name)
    if originals and not isinstance(getattr(module, name), nn.Parameter):  # two originals leave a plain tensor
        delattr(module, name)
        trained = any(parameter.requires_grad for parameter in originals)
        module.register_parameter(name, nn.Parameter(value, requires_grad=trained))


def _fold_old_hooks(module: nn.Module) -> None:
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)
        elif _is_old_hook(hook):
            named: Any = hook
            getattr(nn.utils, _OLD_HOOKS[type(hook).__name__])(module, named.name)
    # torch leaves the hooks that convert state dicts of older versions, which would now ask for removed tensors.
    for hooks in (module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, each in list(hooks.items()):
            if type(getattr(each, "hook", each)).__module__ == nn.utils.spectral_norm.__module__:
                del hooks[key]


def _is_old_hook(hook: object) -> bool:
    return type(hook).__module__.startswith("torch.nn.utils.") and type(hook).__name__ in _OLD_HOOKS


def freeze_scripted_parts(model: nn.Module) -> None:
    """Exclude scripted and traced parts from training, in place: the parameters of their copies are no leaves."""
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            for parameter in module.parameters():
                parameter.detach_()


def refuse_meta_tensors(model: nn.Module, name: str) -> None:
    """Check that all parameters and buffers have values.

    Raises:
        OptionsError: One is on the meta device.
    """
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise OptionsError(
            f"{name} is on the meta device, at least in part, which holds no values; allowed: a network with values, "
            "as on the CPU"
        )


def check_finite(model: nn.Module, source: str) -> None:
    """Check that no parameter is NaN or infinite.

    Args:
        model: The network with its trained values.
        source: The network in words, for the error message.

    Raises:
        DataError: A parameter is; the message names it.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter.detach()).all()):
            raise DataError(f"{source} is damaged: {name} holds values that are not finite")


def plain_copy(model: nn.Module) -> nn.Module:
    """Copy a network.

    Raises:
        OptionsError: It holds a lock, an open file, a generator or another object that cannot be copied. Or the copy of
            one of its parts is the part itself.
    """
    try:
        duplicate = copy_network(model)
    except Exception as error:  # objects of users raise anything
        raise OptionsError(
            f"the network {type(model).__name__} cannot be copied ({described(error)}); allowed: a network that "
            "copy.deepcopy copies, without locks, files and generators in its attributes"
        ) from error
    own = {id(part) for part in (*model.modules(), *model.parameters())}
    for path, part in (*duplicate.named_modules(), *duplicate.named_parameters()):
        if id(part) in own:
            raise OptionsError(
                f"a copy of the network {type(model).__name__} shares the part {path!r} with the original, as where "
                "__deepcopy__ returns the part itself; allowed: parts that copy.deepcopy copies"
            )
    return duplicate


def drop_graphs(model: nn.Module) -> None:
    """Detach the tensors that a network keeps in plain attributes, in place: ``copy.deepcopy`` refuses their graphs.

    Dicts and lists stay the same objects, because several modules may share one.
    """
    seen: set[int] = set()
    for module in model.modules():
        _detach_members(vars(module), seen)


def _detach_members(members: dict[Any, Any] | list[Any], seen: set[int]) -> None:
    seen.add(id(members))
    for key, value in list(members.items() if isinstance(members, dict) else enumerate(members)):
        if has_graph(value):
            members[key] = value.detach()
        elif isinstance(value, dict | list) and id(value) not in seen:
            _detach_members(value, seen)
        elif isinstance(value, tuple) and type(value) is tuple and any(map(has_graph, value)):
            members[key] = tuple(each.detach() if has_graph(each) else each for each in value)
