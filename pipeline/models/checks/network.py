"""Check a network before any work: that it repeats its outputs, can be copied, rebuilt and replaced layer by layer.

A layer that fails a check is marked and kept as it is; see ``pipeline.models.checks.layers``. A failure of the whole
network is an error.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from basis.devices import device_of
from basis.errors import CompressionError
from basis.modes import evaluating, evaluation_mode
from basis.modes import training as training_mode
from basis.regular import mark_irregular
from pipeline.errors import DataError, OptionsError, described
from pipeline.models.checks import registration
from pipeline.models.checks.caches import refuse_kept_results
from pipeline.models.checks.layers import mark_layers
from pipeline.models.memory_format import settle_memory_format
from pipeline.models.outputs import TOLERANCE, check_rows, logits_of, same_outputs, select_output
from pipeline.models.preparation import plain_copy
from pipeline.runtime.randomness import RandomStream
from reports.text import quantity

logger = logging.getLogger(__name__)


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
        registration.refuse_changing_parameters(evaluating(plain_copy(model)))
    if len(images) == 1:  # batch normalization of single values needs two in training mode
        images = torch.cat([images, images])
    images = images.to(device_of(model)).contiguous()
    _select_logits(model, images, classes, output, trained=trained)
    registration.refuse_global_hooks(model, images)
    duplicate = _own_copy(model, images, name)
    _protect_input(model, images, trained=trained)
    expected = _repeated_outputs(model, images, name)
    others = images.flip(0)[:2]  # not those that the original saw last, whose maps it may keep
    with _describing_copies(name):
        found = registration.outputs_of(duplicate, others), registration.outputs_of(duplicate, images)
    if not same_outputs(found[1], expected) or not same_outputs(found[0], registration.outputs_of(model, others)):
        raise _copy_error(name, "it gives other outputs")
    settle_memory_format(model, images)
    refuse_kept_results(model, images)
    used = registration.used_parameters(model, images)
    mark_layers(model, images, expected, used, basis, trained=trained)
    _check_rebuilt(model, images, expected, rebuild, name)
    return model


def _select_logits(model: nn.Module, images: Tensor, classes: int | None, output: str | None, *, trained: bool) -> None:
    """Make the network return its logits alone, and check their shape."""
    name, results = type(model).__name__, outputs_in_modes(model, images, trained=trained)
    plain = [isinstance(result, Tensor) for result in results]
    logits = [
        result if alone and not all(plain) else logits_of(result, output, name)
        for result, alone in zip(results, plain, strict=True)
    ]
    if not all(plain):
        select_output(model, output)
    for result in logits:
        check_rows(result, len(images), output, name, single=output is None and all(plain))
    if classes is not None and tuple(logits[0].shape) != (len(images), classes):
        kind = DataError if logits[0].ndim == 2 else OptionsError
        raise kind(
            f"the network {name} gives {tuple(logits[0].shape)} for {len(images)} images, but data of {classes} "
            f"classes needs a tensor of shape ({len(images)}, {classes})"
        )


def outputs_in_modes(model: nn.Module, images: Tensor, *, trained: bool) -> list[Any]:
    """Return a network's output in evaluation mode and, if it is trained, in training mode; see ``run_network``."""
    return [run_network(model, images, training=training) for training in ((False, True) if trained else (False,))]


def run_network(model: nn.Module, images: Tensor, *, training: bool) -> Any:
    """Run a network in evaluation mode or, in training mode, a copy of it.

    Args:
        model: The network.
        images: (N, C, H, W), on its device.
        training: True for training mode, with the random numbers of seed 0.

    Raises:
        OptionsError: The network fails; the message describes the images.
    """
    try:
        with RandomStream(0, images.device).drawn_from():
            if training:
                return training_mode(plain_copy(model))(images.clone())
            with evaluation_mode(model), torch.no_grad():
                return model(images.clone())
    except CompressionError:
        raise
    except Exception as error:  # code of users raises anything
        if isinstance(error, torch.OutOfMemoryError):
            raise
        count, channels, height, width = images.shape
        mode = "training" if training else "evaluation"
        reason = described(error)
        advice = "choose another model or data of another size"
        others = {str(p.dtype) for p in model.parameters() if p.is_floating_point()} - {"torch.float32"}
        if others:
            advice = (
                f"its parameters are {', '.join(sorted(others))}, and the images are float32; allowed: a network in "
                "float32, as from network.float()"
            )
        elif isinstance(error, TypeError | IndexError | KeyError | AttributeError):
            advice = "allowed: a forward that takes one batch of images as a tensor, as a module around yours can have"
        elif "does not require grad" in reason:
            advice = "allowed: a network that differentiates inside torch.enable_grad()"
        raise OptionsError(
            f"the network {type(model).__name__} cannot take {quantity(count, 'image')} of {height}x{width} pixels "
            f"with {channels} channels in {mode} mode ({reason}); {advice}"
        ) from error


def _protect_input(model: nn.Module, images: Tensor, *, trained: bool) -> None:
    """Make a network that changes its input in place work on a copy of it from now on.

    An operation in place may leave the values of these images as they are, for example if it clips outliers. It still
    increments the version of the tensor.
    """
    for training in (False, True) if trained else (False,):
        given = images.clone()
        version = given._version
        with RandomStream(0, images.device).drawn_from(), torch.set_grad_enabled(training):
            (training_mode if training else evaluating)(plain_copy(model))(given)
        if given._version != version or not torch.equal(given, images):
            model.register_forward_pre_hook(_copied_inputs)
            return


def _repeated_outputs(model: nn.Module, images: Tensor, name: str) -> Tensor:
    """Return the network's outputs.

    Raises:
        OptionsError: The same images give different outputs.
    """
    stream = RandomStream(0, images.device)
    before = dict(stream.state)
    with stream.drawn_from(), evaluation_mode(model), torch.no_grad():
        first: Tensor = model(images.clone()).detach()  # a forward may enable gradients
    drawn = any(not torch.equal(state, before[kind]) for kind, state in stream.state.items())
    # On other devices, outputs without random numbers may differ in last bits, by the order of sums.
    exact = drawn or images.device.type == "cpu"
    if not same_outputs(registration.outputs_of(model, images, stream), first, 0.0 if exact else TOLERANCE):
        raise OptionsError(
            f"the network {name} is not deterministic: in evaluation mode it gives different outputs for the same "
            "images, so no figure of it can be verified; allowed: a network without randomness and changing "
            "state in evaluation mode"
        )
    few = run_network(model, images[:2], training=False)
    if few.shape != first[:2].shape:
        raise OptionsError(
            f"the network {name} gives {tuple(first.shape)} for {len(images)} images and {tuple(few.shape)} for 2; "
            "allowed: a row of outputs for each image"
        )
    if len(images) >= 4 and not same_outputs(few, first[:2]):
        logger.warning(
            "the network %s mixes the images of a batch: its output for an image depends on the others, and so do all "
            "figures, as with batch normalization without running statistics",
            name,
        )
    return first


def _own_copy(model: nn.Module, images: Tensor, name: str) -> nn.Module:
    """Return a copy of a network that runs, and computes with parameters of its own alone.

    The copy of a network with parameters that it does not register does not register them either.

    Raises:
        OptionsError: It does not.
    """
    duplicate = plain_copy(model)
    with _describing_copies(name):
        registration.refuse_foreign(duplicate, images)
    return duplicate


@contextmanager
def _describing_copies(name: str) -> Generator[None]:
    """Describe errors of a copy of a network."""
    try:
        yield
    except CompressionError:
        raise
    except Exception as error:  # code of users raises anything
        raise _copy_error(name, described(error)) from error


def _copy_error(name: str, reason: str) -> OptionsError:
    return OptionsError(
        f"a copy of the network {name} does not compute the same ({reason}): it depends on something that "
        "copy.deepcopy does not copy; allowed: a network whose copies are equal to it"
    )


def _copied_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs)


def _check_rebuilt(
    model: nn.Module, images: Tensor, expected: Tensor, rebuild: Callable[[nn.Module], nn.Module], name: str
) -> None:
    """Check the network that a loader makes of a file.

    Batch normalizations are marked if scale and shift alone do not replace them, as where other code reads them.

    Raises:
        OptionsError: No file can hold the network, or it has other outputs than the original.
    """
    if same_outputs(registration.outputs_of(_rebuilt(model, rebuild, name), images), expected):
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            mark_irregular(module, "other code reads its statistics")
    if not same_outputs(registration.outputs_of(_rebuilt(model, rebuild, name), images), expected):
        raise OptionsError(
            f"the network {name}, built again with the same parameters and persistent buffers, gives other outputs: it "
            "depends on something else, such as random attributes, files or the order of calls; allowed: a network "
            "whose builder, parameters and persistent buffers determine its outputs"
        )


def _rebuilt(model: nn.Module, rebuild: Callable[[nn.Module], nn.Module], name: str) -> nn.Module:
    try:
        return rebuild(model)
    except OptionsError:
        raise
    except DataError as error:
        raise OptionsError(
            f"the network {name} has other tensors when it is built again ({str(error).partition(';')[0]}), as where a "
            "forward makes layers; allowed: a builder that makes all layers, or torch's lazy ones"
        ) from error
    except CompressionError as error:
        raise OptionsError(f"the network {name} cannot be compressed: {error}") from error
