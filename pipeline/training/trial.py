"""Forward and backward passes before a run: precision, batches of one image, and outputs without a gradient."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from basis.layers import stored_layers, stored_values
from basis.modes import evaluating, training
from basis.regular import irregularity
from pipeline.errors import OptionsError, described
from pipeline.models.checks.layers import SUBSTITUTED
from pipeline.runtime.device import Accelerator, placed
from pipeline.runtime.randomness import RandomStream
from pipeline.training.output_values import check_values
from quant.other_weights import is_vector
from quant.sensitivity import images_in_a_draw

TRIAL_IMAGES: Final = 2
_ONE_VALUE: Final = "more than 1 value per channel"
"""Part of the message of PyTorch's batch normalization for a batch with one value per channel."""


def settle_precision(accelerator: Accelerator, network: nn.Module, images: Tensor, wanted: str) -> None:
    """Set the precision to float32 if training in bf16 fails or has wrong gradients.

    Args:
        accelerator: Its precision and its fallback are set.
        network: A network that is not used afterwards: the trial changes its statistics.
        images: float32, (N, C, H, W), on the device; two images or more.
        wanted: The option: ``auto``, ``bf16`` or ``fp32``.

    Raises:
        OptionsError: bf16 is wanted, and the network cannot be trained in it.
    """
    if accelerator.precision == "no":
        return
    wrong: list[str] = []
    with _noted_wrong_gradients(network, wrong):
        reason = _failure(network, images, accelerator.device, bf16=True)
    if accelerator.device.type == "cpu" and wrong:
        reason = reason or wrong[0]
    if not reason or _failure(network, images, accelerator.device, bf16=False):
        return  # a network that fails in float32 too fails for another reason
    if wanted == "bf16":
        raise OptionsError(
            f"--precision: got bf16, but the network cannot be trained in it ({reason}); allowed: auto, fp32"
        )
    accelerator.precision, accelerator.fallback = "no", reason


def check_single_image(network: nn.Module, image: Tensor, cause: str, allowed: str = "2 or more") -> None:
    """Check that batch normalization can be trained on batches of one image.

    Args:
        network: A network that is not used afterwards.
        image: float32, (1, C, H, W), on the device.
        cause: The option that leads to such batches, and its value, for the error message.
        allowed: Allowed values of the option.

    Raises:
        OptionsError: A batch normalization gets a single value per channel.
    """
    reason = _failure(network, image, image.device, bf16=False)
    if _ONE_VALUE in reason:
        raise OptionsError(
            f"{cause}, but batch normalization of the network gets one value per channel from one image, which has no "
            f"variance; allowed: {allowed}"
        )


def check_trainable(network: nn.Module, images: Tensor, allowed: str) -> None:
    """Check that a network has parameters to train, and that steps of training can be computed.

    Args:
        network: A network that is not used afterwards.
        images: float32, (N, C, H, W), on the device of the network; as many as batch normalization needs.
        allowed: Alternatives to training, for the error message.

    Raises:
        OptionsError: No parameter requires a gradient, or the output has none, or another shape than in evaluation
            mode, or NaN or +inf. The network or the computation of gradients fails, the first time or when it is
            repeated.
    """
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise OptionsError(
            f"--epochs: no parameter of the network requires a gradient; allowed: one at least, or {allowed}"
        )
    with RandomStream(0, images.device).drawn_from(), torch.no_grad():
        expected = evaluating(network)(images.clone())
    try:
        with RandomStream(0, images.device).drawn_from(), torch.enable_grad():
            output = training(network)(images.clone())
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise OptionsError(
            f"--epochs: the network fails in training mode on maps in channels_last memory ({described(error)}); "
            f"allowed: reshape or flatten in place of view, or {allowed}"
        ) from error
    if isinstance(output, Tensor) and not output.requires_grad:
        raise OptionsError(
            "--epochs: the outputs of the network have no gradient, as inside torch.no_grad or after detach; allowed: "
            f"a forward that records gradients, or {allowed}"
        )
    if isinstance(output, Tensor) and output.shape != expected.shape:
        raise OptionsError(
            f"--epochs: the network gives {tuple(output.shape)} for {len(images)} images in training mode, and "
            f"{tuple(expected.shape)} in evaluation mode, so that they cannot be compared; allowed: outputs of one "
            f"shape, or {allowed}"
        )
    check_values(expected, "--epochs", allowed)
    check_values(output, "--epochs", allowed, evaluated=expected)
    _check_backward(network, images, output, allowed)


def _check_backward(network: nn.Module, images: Tensor, output: Any, allowed: str) -> None:
    """Check that gradients of a training step can be computed, and those of the step behind it.

    Raises:
        OptionsError: They cannot.
    """
    if not isinstance(output, Tensor):
        return
    refusal = (
        "--epochs: the gradients of two steps of training cannot be computed ({}); allowed: a network that PyTorch can "
        f"differentiate in every step, or {allowed}"
    )
    with _refusing(refusal), RandomStream(0, images.device).drawn_from(), torch.enable_grad():
        output.float().sum().backward()
        network(images.clone()).float().sum().backward()


def check_rounded_training(network: nn.Module, images: Tensor) -> None:
    """Check that the forward changes no weight in training mode: training through the rounding computes the weights.

    Args:
        network: A network that is not used afterwards.
        images: See ``check_trainable``.

    Raises:
        OptionsError: It changes one, as where an average follows the other weights.
    """
    weights = {name: each for name, each in network.named_parameters() if not is_vector(each)}
    before = {name: (each._version, each.detach().clone()) for name, each in weights.items()}
    with RandomStream(0, images.device).drawn_from(), torch.enable_grad():
        training(network)(images.clone())
    for name, (version, values) in before.items():
        if weights[name]._version != version or not torch.equal(weights[name].detach(), values):
            raise OptionsError(
                f"the forward of the network {type(network).__name__} changes its parameter {name!r} in training mode, "
                "as an average that follows other weights, and cannot be trained through the rounding, which computes "
                "the weights; allowed: a forward that changes no weight, or no training of rounded weights"
            )


@contextlib.contextmanager
def _refusing(refusal: str) -> Iterator[None]:
    """Convert any error to an ``OptionsError``: the code of users raises anything. Missing memory is no such error.

    Args:
        refusal: The message, with ``{}`` in the place of the error.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise OptionsError(refusal.format(described(error))) from error


def check_gradients(network: nn.Module, images: Tensor, count: int) -> None:
    """Check that gradients reach the images and every layer that runs. A target needs them to measure the layers.

    Args:
        network: A network that is not used afterwards.
        images: float32, (N, C, H, W), on the device of the network.
        count: Number of images with which the layers are measured.

    Raises:
        OptionsError: They do not, or an output is NaN or +inf. The measurement has batches of one image, which the
            network does not take.
    """
    at_once = images_in_a_draw(images, count)
    if at_once == 1 or count % at_once == 1:
        refusal = (
            "--target-mb: the network takes no batch of one image in evaluation mode ({}), and the measurement of "
            f"{count} calibration images has such batches; allowed: another number of them, or --bits"
        )
        with _refusing(refusal), torch.no_grad():
            evaluating(network)(images[:1].clone())
    given, gradient = images.detach().clone().requires_grad_(), None
    without: list[str] = []

    def on_output(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and not output.requires_grad:
            without.append(name)

    with contextlib.ExitStack() as hooks, torch.enable_grad():
        for name, layer in stored_layers(network).items():
            stored_values(layer).requires_grad_(True)
            hooks.callback(layer.register_forward_hook(partial(on_output, name)).remove)
        values = evaluating(network)(given)
        check_values(values, "--target-mb", "--bits")
        outputs = values.float().sum()
        if outputs.requires_grad:
            gradient = _gradient(outputs, given)
    if gradient is None or without:
        found = "no gradient of the network's outputs reaches its images"
        cause = "as inside torch.no_grad or after detach"
        if gradient is not None:
            found = f"the layer {without[0]!r} of the network records no gradient"
            if irregularity(network.get_submodule(without[0])) == SUBSTITUTED:
                cause = f"because {SUBSTITUTED}, as in torch.vmap with stacked weights"
        raise OptionsError(
            f"--target-mb: {found}, {cause}, so that its layers cannot be compared; allowed: a forward that records "
            "gradients, or --bits"
        )


def _gradient(outputs: Tensor, given: Tensor) -> Tensor | None:
    """Return the gradient of a sum of outputs for the images; None if the outputs do not depend on them.

    Raises:
        OptionsError: It cannot be computed.
    """
    try:
        return torch.autograd.grad(outputs, given, allow_unused=True)[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # code of users raises anything
        if "use_reentrant=True" in str(error):
            raise OptionsError(
                "--target-mb: the network recomputes its maps by torch.utils.checkpoint with use_reentrant=True, which "
                "gives no gradient of single layers, so that they cannot be compared; allowed: use_reentrant=False, or "
                "--bits"
            ) from error
        raise OptionsError(
            f"--target-mb: the gradient of the network's outputs cannot be computed ({described(error)}), so that its "
            "layers cannot be compared; allowed: a network that torch.autograd.grad can differentiate, or --bits"
        ) from error


@contextlib.contextmanager
def _noted_wrong_gradients(network: nn.Module, found: list[str]) -> Iterator[None]:
    """Note the convolutions whose gradients PyTorch gets wrong in bf16 on a CPU, each in a sentence.

    Where a map is smaller than the stride, some values of the weight's gradient are not written. They hold whatever was
    in memory (PyTorch 2.14).
    """

    def on_call(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        conv = cast(nn.Conv2d, module)
        sizes = tuple(inputs[0].shape[2:]) if inputs and isinstance(inputs[0], Tensor) else ()
        steps = tuple(conv.stride) if isinstance(conv.stride, Sequence) else (conv.stride,) * len(sizes)
        if conv.weight[0, 0].numel() > 1 and any(size < step for size, step in zip(sizes, steps, strict=False)):
            shape, stride = "x".join(map(str, sizes)), "x".join(map(str, steps))
            found.append(f"wrong gradients of {name} in bf16 on a CPU: its maps of {shape} are below stride {stride}")

    with contextlib.ExitStack() as hooks:
        for name, module in network.named_modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                hooks.callback(module.register_forward_pre_hook(partial(on_call, name)).remove)
        yield


def _failure(network: nn.Module, images: Tensor, device: torch.device, *, bf16: bool) -> str:
    """Return the error of one training step's forward and backward pass in a sentence; empty if there is none."""
    network = training(placed(network, device))
    try:
        with RandomStream(0, device).drawn_from():
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                output = network(images)
            if isinstance(output, Tensor) and output.requires_grad:
                output.float().sum().backward()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        return described(error)
    finally:
        network.zero_grad(set_to_none=True)
    return ""
