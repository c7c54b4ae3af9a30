"""Measure how much a change of each layer's outputs changes the network's predictions: the Fisher information.

For one layer with outputs y,

    s = mean over channels of E[ sum over positions of (d log p(c | x) / d y)^2 ],   c distributed as p(. | x).

To second order, noise of variance v at all outputs of the layer raises the KL divergence of the predictions by
``v s O / 2``, with O channels. No labels are needed.

Drawn classes would make s very noisy, because most predictions are nearly certain. With ``p = p(. | x)`` the covariance
of the gradient ``e_c - p`` of the logits is ``diag(p) - p p^T``. A vector with this covariance, of random signs r, is

    v = sqrt(p) * r - p (sqrt(p) . r),

and one backward pass of ``v . logits`` gives squared gradients of the same mean.

Outputs y' of any other kind, such as embeddings, are taken as means of normal distributions of one variance. Then
``v = r`` has the covariance of the gradient, and s measures the squared error of y'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from basis.layers import stored_values
from basis.modes import evaluation_mode
from basis.shard import CalibrationShard

PIXELS_AT_ONCE = 2**19
"""Pixels of the images of one backward pass, whose feature maps are all in memory: 10 images of 224x224."""
MOST_AT_ONCE = 128
"""Most images of one backward pass."""


def output_sensitivities(
    model: nn.Module,
    names: Iterable[str],
    images: Tensor,
    *,
    seed: int = 0,
    shard: CalibrationShard | None = None,
    logits: bool = True,
) -> dict[str, float]:
    """Measure the Fisher information of each layer at its outputs, by one backward pass.

    Args:
        model: The network; its parameters get no gradients.
        names: Layers: convolutions and linear layers.
        images: Training images without labels, (N, C, H, W), on the model's device.
        seed: Seed of the random signs.
        shard: Calibration shard of this rank; None if the rank holds all images.
        logits: True if the outputs are logits, (N, classes); False for other values, (N, ...).

    Returns:
        Layer name -> s, per image. Layers that do not run are left out; one that runs several times has the sum.

    Source:
        Fisher information of a network: Kunstner et al. 2019, arXiv 1905.12558.
    """
    shard = shard or CalibrationShard.whole(len(images))
    modules, squares = dict(model.named_modules()), {name: torch.zeros((), dtype=torch.float64) for name in names}
    reached: set[str] = set()
    vector = _Signs(seed, shard).vector if logits else partial(_sign_vector, seed, shard.first)

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def on_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            def on_gradient(gradient: Tensor) -> None:
                reached.add(name)
                squares[name] += gradient.double().square().sum().cpu() / len(stored_values(module))

            if output.requires_grad:
                output.register_hook(on_gradient)

        return on_output

    with ExitStack() as hooks, torch.enable_grad(), evaluation_mode(model):
        for name in squares:
            hooks.callback(modules[name].register_forward_hook(hook(name)).remove)
        at_once = images_at_once(images)
        for start in range(0, len(images), at_once):
            batch = images[start : start + at_once].detach().requires_grad_()
            outputs = model(batch).float()
            torch.autograd.grad((outputs * vector(outputs.detach(), start)).sum(), batch)  # no parameter gradients
    return {name: float(shard.reduce(total)) / shard.total for name, total in squares.items() if name in reached}


def images_at_once(images: Tensor) -> int:
    """Return the number of images, (N, C, H, W), of one backward pass."""
    return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // images[0, 0].numel()))


def weights_in_use(model: nn.Module, names: Sequence[str], images: Tensor) -> set[str]:
    """Return the layers whose stored values change the logits of some images, whether or not the layers run.

    Args:
        model: The network.
        names: Layers: convolutions and linear layers.
        images: (N, C, H, W), on the model's device.
    """
    if not names:
        return set()
    values = [stored_values(model.get_submodule(name)) for name in names]
    frozen = [each for each in values if not each.requires_grad]
    try:
        for each in frozen:
            each.requires_grad_(True)
        with torch.enable_grad(), evaluation_mode(model):
            logits = model(images.detach().requires_grad_())
            gradients = torch.autograd.grad(logits.sum(), values, allow_unused=True)
    finally:
        for each in frozen:
            each.requires_grad_(False)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}


class _Signs:
    """The random signs of every image: the same on one rank as on several."""

    def __init__(self, seed: int, shard: CalibrationShard) -> None:
        self._seed, self._shard = seed, shard
        self._signs = torch.empty(0)

    def vector(self, logits: Tensor, start: int) -> Tensor:
        """Return v for images from ``start`` on, of the shape of the logits, (N, classes)."""
        if not len(self._signs):
            generator = torch.Generator().manual_seed(self._seed)
            self._signs = 2.0 * torch.randint(2, (self._shard.total, logits.shape[1]), generator=generator) - 1
        first = self._shard.first + start
        signs = self._signs[first : first + len(logits)].to(logits)
        chances = logits.softmax(1)
        roots = chances.sqrt()
        return roots * signs - chances * (roots * signs).sum(1, keepdim=True)


def _sign_vector(seed: int, first: int, outputs: Tensor, start: int) -> Tensor:
    """Return random signs for images from ``first + start`` on, of the shape of the outputs, (N, ...)."""
    generators = (torch.Generator().manual_seed(seed + first + start + image) for image in range(len(outputs)))
    signs = [2.0 * torch.randint(2, outputs.shape[1:], generator=generator) - 1 for generator in generators]
    return torch.stack(signs).to(outputs)
