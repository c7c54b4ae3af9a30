"""Mark the layers of a network that are kept: no series replaces them, or samples do not describe them."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from basis.computed import ComputedConv2d
from basis.conv import is_compressible
from basis.families import BASES
from basis.layers import is_regular
from basis.modes import training
from basis.regular import has_own_forward, irregularity, mark_irregular, mark_plain
from basis.swap import swap_convolutions
from pipeline.errors import OptionsError
from pipeline.models.checks import registration
from pipeline.models.outputs import same_outputs
from pipeline.models.preparation import plain_copy
from pipeline.runtime.randomness import RandomStream

logger = logging.getLogger(__name__)

SUBSTITUTED: Final = "its weight is another one while it runs"
_UNCALLED: Final = "the network reads its weight without calling the layer, or calls it in a function that is compiled"
_EXACT: Final = 1e-6
"""Largest difference between two forwards of a layer, as a share of its largest output."""
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks")


def mark_layers(
    model: nn.Module, images: Tensor, expected: Tensor, used: Set[str], basis: str, *, trained: bool
) -> None:
    """Mark the layers that cannot be replaced, or that samples of inputs do not describe; see ``basis.regular``.

    Args:
        model: The network; its convolutions and linear layers are marked in place.
        images: Some images, (N, C, H, W), on its device.
        expected: Its outputs for them.
        used: See ``pipeline.models.checks.registration.used_parameters``.
        basis: The basis of the series.
        trained: True if the run trains the network, so that its layers must be replaceable in training mode, too.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not isinstance(module, ComputedConv2d)
    }
    for name in _plain_forwards(model, layers, images):
        mark_plain(layers[name])
    for name, reason in _structural_reasons(model, layers, images).items():
        mark_irregular(layers[name], reason)
    calls = _Calls.of(model, layers, images)
    for name, reason in (_routed(model, layers, images) | calls.reasons).items():
        if is_regular(layers[name]):
            mark_irregular(layers[name], reason)
    for name, layer in layers.items():
        if is_regular(layer) and calls.counts[name] == 0 and f"{name}.weight" in used:
            mark_irregular(layer, _UNCALLED)
    candidates = [name for name, layer in layers.items() if is_compressible(layer)]
    replaceable = partial(_replaceable, model, images, expected, calls, basis, trained)
    if candidates and not replaceable(candidates):
        for name in candidates:
            if not replaceable([name]):
                holder = registration.plain_holder(model, layers[name])
                reason = "" if holder is None else f": the plain attribute {holder!r} still holds the former one"
                mark_irregular(layers[name], f"the network does not compute the same with the layer replaced{reason}")
    for name, layer in layers.items():
        if (found := irregularity(layer)) is not None:
            logger.info("%s is kept as it is: %s", name, found)


def _plain_forwards(model: nn.Module, layers: Mapping[str, nn.Conv2d | nn.Linear], images: Tensor) -> set[str]:
    """Return the layers whose class has a forward of its own that computes what the one of torch's class does.

    Examples are forwards that convert types, or take empty batches. Forwards with further parameters, buffers or parts
    are not compared: other values of these may change the outputs.
    """
    trial = plain_copy(model)
    inputs: dict[str, list[tuple[Any, ...]]] = {
        name: []
        for name, layer in layers.items()
        if has_own_forward(layer)
        and not layer._modules
        and {key for key, _ in (*layer.named_parameters(), *layer.named_buffers())} <= {"weight", "bias"}
    }

    def keep(name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        inputs[name].append(tuple(each.clone() if isinstance(each, Tensor) else each for each in given))

    with ExitStack() as hooks:
        for name in inputs:
            hooks.callback(trial.get_submodule(name).register_forward_pre_hook(partial(keep, name)).remove)
        if inputs:
            registration.outputs_of(trial, images)
    with RandomStream(0, images.device).drawn_from():
        return {name for name, calls in inputs.items() if calls and _is_plain(trial.get_submodule(name), calls)}


@torch.no_grad()
def _is_plain(layer: nn.Module, calls: list[tuple[Any, ...]]) -> bool:
    """Compare the forwards for the inputs of all calls, in both modes, and with larger weights, which it may limit."""
    kind = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
    weight = layer._parameters.get("weight")
    if weight is None or any(len(given) != 1 or not isinstance(given[0], Tensor) for given in calls):
        return False
    try:
        for factor, mode in product((1.0, 4.0), (False, True)):
            weight.mul_(factor)
            layer.train(mode)
            for (x,) in calls:
                wanted, found = kind.forward(cast(Any, layer), x.clone()), layer.forward(x.clone())
                if not isinstance(found, Tensor) or not same_outputs(found, wanted, _EXACT):
                    return False
    except Exception:  # a forward that needs more than its input
        return False
    return True


def refuse_substituted(model: nn.Module) -> None:
    """Check that a marked network can be trained through the rounding, which computes the weight of every layer.

    Raises:
        OptionsError: It runs a layer with another weight, as ``torch.func.functional_call`` does.
    """
    for name, module in model.named_modules():
        if irregularity(module) == SUBSTITUTED:
            raise OptionsError(
                f"the layer {name!r} cannot be trained through the rounding: {SUBSTITUTED}, as by "
                "torch.func.functional_call; allowed: no training of rounded weights"
            )


def _structural_reasons(
    model: nn.Module, layers: Mapping[str, nn.Conv2d | nn.Linear], images: Tensor
) -> dict[str, str]:
    reasons = {}
    shared = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    for name, layer in layers.items():
        if any(method in vars(layer) for method in ("forward", "_conv_forward")) and layer is not model:
            reasons[name] = "its forward was replaced"
        elif any(vars(layer).get(hooks) for hooks in _HOOKS) and _hooks_matter(model, name, images):
            reasons[name] = "it has hooks that change its inputs or outputs"
        elif not isinstance(layer._parameters.get("weight"), nn.Parameter):
            reasons[name] = "its weight is " + ("a buffer" if "weight" in layer._buffers else "computed")
        elif shared[id(layer.weight)] > 1:
            reasons[name] = "another layer has the same weight"
        elif layer.bias is not None and shared[id(layer.bias)] > 1:
            reasons[name] = "another layer has the same bias"
        elif layer._modules:
            reasons[name] = "it holds other modules"
        elif not _describes_itself(layer):
            reasons[name] = "its attributes do not describe its weight"
    return reasons


def _describes_itself(layer: nn.Conv2d | nn.Linear) -> bool:
    """Return True if the attributes are those of a layer that its class has built; pruning by hand leaves old ones."""
    if isinstance(layer, nn.Linear):
        return tuple(layer.weight.shape) == (layer.out_features, layer.in_features)
    pairs = (layer.kernel_size, layer.stride, layer.dilation)
    if any(not isinstance(each, tuple | list) for each in pairs) or not isinstance(layer.padding, tuple | list | str):
        return False
    channels = layer.out_channels, layer.in_channels // layer.groups
    return tuple(layer.weight.shape) == (*channels, *layer.kernel_size)


def _hooks_matter(model: nn.Module, name: str, images: Tensor) -> bool:
    given, trial = plain_copy(model), plain_copy(model)
    for hooks in _HOOKS:
        vars(trial.get_submodule(name))[hooks].clear()
    changed = images.flip(3) / 2  # what hooks have stored is of other images
    try:
        return not same_outputs(registration.outputs_of(trial, changed), registration.outputs_of(given, changed))
    except Exception:  # a network that needs what the hook stores
        return True


class _Calls:
    """The calls of layers in one pass.

    Attributes:
        counts: Layer name -> number of calls.
        reasons: Layer name -> reason why its calls do not show its batch and its weight.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: dict[str, str] = {}

    @classmethod
    def of(cls, model: nn.Module, names: Iterable[str], images: Tensor) -> "_Calls":
        """Run a network and note the calls of its layers."""
        found = cls()
        weights = {name: _weight(model.get_submodule(name)) for name in names}
        geometries = {name: _geometry(model.get_submodule(name)) for name in weights}

        def on_call(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
            axes = 2 if isinstance(module, nn.Linear) else 4
            found.counts[name] += 1
            if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or inputs[0].ndim < axes:
                found.reasons[name] = "its input is not one batch, passed by position"
            elif not inputs[0].numel():
                found.reasons[name] = "it is called with no image"
            elif not _is_weight(weights[name], module):
                found.reasons[name] = SUBSTITUTED
            elif _geometry(module) != geometries[name]:
                found.reasons[name] = "its stride, padding or dilation is another one while it runs"

        with ExitStack() as hooks:
            for name in weights:
                hooks.callback(model.get_submodule(name).register_forward_pre_hook(partial(on_call, name)).remove)
            registration.outputs_of(model, images)
        return found


def _routed(model: nn.Module, names: Iterable[str], images: Tensor) -> dict[str, str]:
    """Return the layers whose number of inputs depends on the images, as that of experts behind a gate: name -> reason.

    A compressed network may choose others, so that the inputs of both networks are not of the same images.
    """
    mixed = torch.cat([images, -images, images.flip(1), images.roll(1, 3) * 2, images / 4, images.flip(2) + 1])
    rows: dict[str, list[int]] = {name: [] for name in names}  # of the first call in each pass; 0 without a call

    def on_call(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim and not rows[name][-1]:
            rows[name][-1] = len(inputs[0])

    with ExitStack() as hooks:
        for name in rows:
            hooks.callback(model.get_submodule(name).register_forward_pre_hook(partial(on_call, name)).remove)
        for batch in (*mixed.split(len(images)), images[:1].expand_as(images), images[1:2].expand_as(images)):
            for counts in rows.values():
                counts.append(0)
            try:
                registration.outputs_of(model, batch)
            except Exception:  # a network for which these values are out of range
                return {}
    return {name: "it runs on some of the images alone" for name, counts in rows.items() if len(set(counts)) > 1}


def _geometry(layer: nn.Module) -> tuple[Any, ...]:
    """Return the attributes of a convolution with which samples of its inputs are taken; nothing of other layers."""
    if not isinstance(layer, nn.Conv2d):
        return ()
    return layer.stride, layer.padding, layer.padding_mode, layer.dilation, layer.groups


def _weight(layer: nn.Module) -> Tensor | None:
    """Return a layer's weight as it is stored; None if it is no parameter."""
    weight = layer._parameters.get("coefficients" if isinstance(layer, ComputedConv2d) else "weight")
    return None if weight is None else weight.detach()


def _is_weight(before: Tensor | None, layer: nn.Module) -> bool:
    """Return True if a layer still has the weight from before, or an equal one."""
    now = _weight(layer)
    if before is None or now is None:
        return before is now
    try:
        return before.data_ptr() == now.data_ptr() or torch.equal(before, now)
    except RuntimeError:  # a stack of weights in torch.vmap has no memory that can be read
        return False


def _replaceable(
    model: nn.Module,
    images: Tensor,
    expected: Tensor,
    calls: _Calls,
    basis: str,
    trained: bool,
    names: list[str],
) -> bool:
    """Return True if series of full order in place of convolutions are called as often and change no output."""
    trial, series = plain_copy(model), basis if basis in BASES else next(iter(BASES))  # all have the same filters
    sizes = {name: cast(nn.Conv2d, trial.get_submodule(name)).kernel_size for name in names}
    try:
        trial = swap_convolutions(trial, {name: (height, width) for name, (height, width) in sizes.items()}, series)
        found = _Calls.of(trial, names, images).counts
        if found != Counter({name: calls.counts[name] for name in names}):
            return False
        same = same_outputs(registration.outputs_of(trial, images), expected)
        if same and trained:
            with RandomStream(0, images.device).drawn_from():
                training(plain_copy(trial))(images.clone())
        return same
    except Exception:  # a network that asks for the type of its layers, for example
        return False
