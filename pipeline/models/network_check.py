"""Check a network before any work: that it repeats its outputs, can be copied, rebuilt and replaced layer by layer.

What only concerns some layers is marked on them, and they are kept as they are. Everything else is an error.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import ExitStack
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from basis.conv import is_compressible
from basis.errors import CompressionError
from basis.families import BASES
from basis.layers import is_regular, stored_tensor_name
from basis.modes import evaluation_mode
from basis.regular import irregularity, mark_irregular
from basis.swap import swap_convolutions
from pipeline.errors import DataError, OptionsError
from pipeline.models import registration
from pipeline.models.memory_format import settle_memory_format
from pipeline.models.outputs import logits_of, select_output
from pipeline.models.preparation import plain_copy
from pipeline.runtime.randomness import RandomStream

logger = logging.getLogger(__name__)

TOLERANCE: Final = 1e-3
"""Largest change of a logit by an exact change of the network, as a share of the largest logit."""
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_network(
    model: nn.Module,
    images: Tensor,
    *,
    classes: int | None,
    output: str | None,
    basis: str,
    trained: bool,
    rebuild: Callable[[nn.Module], nn.Module],
) -> nn.Module:
    """Check a network on a few images, and mark the layers that must be kept as they are.

    Args:
        model: The network, without wrappers, lazy parts and parametrizations; changed in place: it gets marks, and
            hooks that select its output and protect its input.
        images: Some images of the data, (N, C, H, W).
        classes: Classes of the data; None for outputs of any width.
        output: See ``pipeline.models.outputs.select_output``.
        basis: The basis of the replaced convolutions.
        trained: True if the run trains the network, so that it must run in training mode.
        rebuild: Stores a network as an artifact does, and returns the network that a loader makes of the file.

    Returns:
        The network.

    Raises:
        OptionsError: The network cannot take the images, its output has not two axes, or it cannot be compressed. The
            message has the reason.
        DataError: Its logits have another number of classes than the data.
    """
    name = type(model).__name__
    registration.refuse_unregistered(model)
    registration.refuse_unstorable(model)
    if trained:
        registration.refuse_changing_parameters(plain_copy(model).eval())
    if len(images) == 1:  # batch normalization of single values needs two in training mode
        images = torch.cat([images, images])
    images = images.to(next((p.device for p in model.parameters()), torch.device("cpu"))).contiguous()
    _select_logits(model, images, classes, output, trained=trained)
    registration.refuse_global_hooks(model, images)
    registration.refuse_foreign(model, images)
    expected = _protected_outputs(model, images, name)
    settle_memory_format(model, images)
    used = registration.used_parameters(model, images)
    duplicate = plain_copy(model)
    if (
        not _equal(registration.outputs_of(duplicate, images), expected)
        or registration.used_parameters(duplicate, images) != used
    ):
        raise OptionsError(
            f"a copy of the network {name} does not compute with its own parameters: a replaced method or a closure "
            "refers to the original; allowed: a network that uses its parameters through self"
        )
    _mark_layers(model, images, expected, used, basis)
    _check_rebuilt(model, images, expected, rebuild, name)
    return model


def _select_logits(model: nn.Module, images: Tensor, classes: int | None, output: str | None, *, trained: bool) -> None:
    """Make the network return its logits alone, and check their shape."""
    name, modes = type(model).__name__, (False, True) if trained else (False,)
    results = [_run(model, images, training=training) for training in modes]
    logits = [logits_of(result, output, name) for result in results]
    if output is not None or not all(isinstance(result, Tensor) for result in results):
        select_output(model, output)
    if classes is not None and tuple(logits[0].shape) != (len(images), classes):
        kind = DataError if logits[0].ndim == 2 else OptionsError
        raise kind(
            f"the network {name} gives {tuple(logits[0].shape)} for {len(images)} images, but data of {classes} "
            f"classes needs a tensor of shape ({len(images)}, {classes})"
        )


def _run(model: nn.Module, images: Tensor, *, training: bool) -> Any:
    """Run a network or, in training mode, a copy of it; describe errors about the images."""
    try:
        with RandomStream(0, images.device).drawn_from():
            if training:
                return plain_copy(model).train()(images.clone())
            with evaluation_mode(model), torch.no_grad():
                return model(images.clone())
    except CompressionError:
        raise
    except Exception as error:  # code of users raises anything
        if isinstance(error, torch.OutOfMemoryError):
            raise
        count, channels, height, width = images.shape
        mode = "training" if training else "evaluation"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        advice = "choose another model or data of another size"
        others = {str(p.dtype) for p in model.parameters() if p.is_floating_point()} - {"torch.float32"}
        if others:
            advice = (
                f"its parameters are {', '.join(sorted(others))}, and the images are float32; allowed: a network in "
                "float32, as from network.float()"
            )
        elif isinstance(error, TypeError):
            advice = "allowed: a network whose forward takes one batch of images, as a module around yours can have"
        raise OptionsError(
            f"the network {type(model).__name__} cannot take {count} images of {height}x{width} pixels with {channels} "
            f"channels in {mode} mode ({reason}); {advice}"
        ) from error


def _equal(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> bool:
    if found.shape != expected.shape:
        return False
    within = tolerance * float(expected.abs().nan_to_num().max())
    return bool(torch.allclose(found.float(), expected.float(), rtol=0.0, atol=within, equal_nan=True))


def _protected_outputs(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """Return the network's outputs; a network that changes its input in place works on a copy of it from now on.

    Raises:
        OptionsError: The same images give different outputs.
    """
    given, stream = images.clone(), RandomStream(0, images.device)
    before = dict(stream.state)
    with stream.drawn_from(), evaluation_mode(model), torch.no_grad():
        first: Tensor = model(given)
    if not torch.equal(given, images):
        model.register_forward_pre_hook(_copied_inputs)
    drawn = any(not torch.equal(state, before[kind]) for kind, state in stream.state.items())
    second = registration.outputs_of(model, images, stream)
    # Without random numbers, outputs may differ in last bits, by the order of sums.
    if not _equal(second, first, 0.0 if drawn else TOLERANCE):
        raise OptionsError(
            f"the network {name} is not deterministic: in evaluation mode it gives different outputs for the same "
            "images, so no figure of it can be verified; allowed: a network without randomness and changing "
            "state in evaluation mode"
        )
    few = _run(model, images[:2], training=False)
    if few.shape != first[:2].shape:
        raise OptionsError(
            f"the network {name} gives {tuple(first.shape)} for {len(images)} images and {tuple(few.shape)} for 2; "
            "allowed: a row of outputs for each image"
        )
    if len(images) >= 4 and not _equal(few, first[:2]):
        logger.warning(
            "the network %s mixes the images of a batch: its output for an image depends on the others, and so do all "
            "figures, as with batch normalization without running statistics",
            name,
        )
    return first


def _copied_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)


def _mark_layers(model: nn.Module, images: Tensor, expected: Tensor, used: Set[str], basis: str) -> None:
    """Mark the layers that cannot be replaced, or whose inputs and outputs hooks cannot see."""
    layers = {name: module for name, module in model.named_modules() if stored_tensor_name(module) is not None}
    for name, reason in _structural_reasons(model, layers, images).items():
        mark_irregular(layers[name], reason)
    calls = _count_calls(model, layers, images)
    for name, layer in layers.items():
        if calls[name] < 0 and is_regular(layer):
            mark_irregular(layer, "its input is not one batch, passed by position")
    candidates = [name for name, layer in layers.items() if is_compressible(layer)]
    for name in candidates:
        if calls[name] == 0 and f"{name}.weight" in used:
            mark_irregular(layers[name], "the network reads its weight without calling the layer")
    candidates = [name for name in candidates if irregularity(layers[name]) is None]
    if candidates and not _replaceable(model, candidates, images, expected, calls, basis):
        for name in candidates:
            if not _replaceable(model, [name], images, expected, calls, basis):
                mark_irregular(layers[name], "the network does not compute the same with the layer replaced")
    for name, layer in layers.items():
        if (found := irregularity(layer)) is not None:
            logger.info("%s is kept as it is: %s", name, found)


def _structural_reasons(model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor) -> dict[str, str]:
    reasons = {}
    shared = Counter(id(parameter) for module in model.modules() for parameter in module._parameters.values())
    for name, layer in layers.items():
        tensor = getattr(layer, "weight", None)
        if any(method in vars(layer) for method in ("forward", "_conv_forward")) and layer is not model:
            reasons[name] = "its forward was replaced"
        elif any(vars(layer).get(hooks) for hooks in _HOOKS) and _hooks_matter(model, name, images):
            reasons[name] = "it has hooks that change its inputs or outputs"
        elif not isinstance(tensor, nn.Parameter):
            reasons[name] = "its weight is computed"
        elif shared[id(tensor)] > 1:
            reasons[name] = "another layer has the same weight"
        elif layer.bias is not None and shared[id(layer.bias)] > 1:
            reasons[name] = "another layer has the same bias"
    return reasons


def _hooks_matter(model: nn.Module, name: str, images: Tensor) -> bool:
    given, trial = plain_copy(model), plain_copy(model)
    for hooks in _HOOKS:
        vars(trial.get_submodule(name))[hooks].clear()
    changed = images.flip(3) / 2  # what hooks have stored is of other images
    try:
        return not _equal(registration.outputs_of(trial, changed), registration.outputs_of(given, changed))
    except Exception:  # a network that needs what the hook stores
        return True


def _count_calls(model: nn.Module, names: Iterable[str], images: Tensor) -> Counter[str]:
    """Count the calls of layers with one positional batch; a layer with any other call has a negative number."""
    calls: Counter[str] = Counter()

    def on_call(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        axes = 2 if isinstance(module, nn.Linear) else 4
        fits = len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].ndim >= axes
        calls[name] += 1 if fits and calls[name] >= 0 else -1_000_000

    with ExitStack() as hooks:
        for name in names:
            hooks.callback(model.get_submodule(name).register_forward_pre_hook(partial(on_call, name)).remove)
        registration.outputs_of(model, images)
    return calls


def _replaceable(
    model: nn.Module, names: list[str], images: Tensor, expected: Tensor, calls: Counter[str], basis: str
) -> bool:
    """Return True if series of full order in place of convolutions are called as often and change no output."""
    trial, series = plain_copy(model), basis if basis in BASES else next(iter(BASES))  # all have the same filters
    sizes = {name: cast(nn.Conv2d, trial.get_submodule(name)).kernel_size for name in names}
    try:
        trial = swap_convolutions(trial, {name: (height, width) for name, (height, width) in sizes.items()}, series)
        return _count_calls(trial, names, images) == Counter({name: calls[name] for name in names}) and _equal(
            registration.outputs_of(trial, images), expected
        )
    except Exception:  # a network that reads `weight` of a series, for example
        return False


def _check_rebuilt(
    model: nn.Module, images: Tensor, expected: Tensor, rebuild: Callable[[nn.Module], nn.Module], name: str
) -> None:
    """Check the network that a loader makes of a file.

    Batch normalizations are marked if scale and shift alone do not replace them, as where other code reads them.

    Raises:
        OptionsError: No file can hold the network, or it has other outputs than the original.
    """
    if _equal(registration.outputs_of(_rebuilt(model, rebuild, name), images), expected):
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            mark_irregular(module, "other code reads its statistics")
    if not _equal(registration.outputs_of(_rebuilt(model, rebuild, name), images), expected):
        raise OptionsError(
            f"the network {name}, built again with the same parameters and persistent buffers, gives other outputs: it "
            "depends on something else, such as random attributes, files or the order of calls; allowed: a network "
            "whose builder, parameters and persistent buffers determine its outputs"
        )


def _rebuilt(model: nn.Module, rebuild: Callable[[nn.Module], nn.Module], name: str) -> nn.Module:
    try:
        return rebuild(model)
    except (OptionsError, DataError):
        raise
    except CompressionError as error:
        raise OptionsError(f"the network {name} cannot be compressed: {error}") from error
