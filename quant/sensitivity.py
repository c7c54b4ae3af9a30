"""Measure how much a change of each stored value changes the network's predictions: the Fisher information.

For a stored value w,

    F = E[(d log p(c | x) / d w)^2],   c distributed as p(. | x).

To second order, a change of w by e raises the KL divergence of the predictions by ``F e^2 / 2``. No labels are needed.

Drawn classes would make F very noisy, because most predictions are nearly certain. With ``p = p(. | x)`` the covariance
of the gradient ``e_c - p`` of the logits is ``diag(p) - p p^T``. A vector with this covariance, of random signs r, is

    v = sqrt(p) * r - p (sqrt(p) . r),

and one backward pass of ``v . logits`` gives squared gradients of the same mean. The signs of different images are
independent with mean 0. The expected squared gradient of a whole batch is therefore that of the sum of the images'
squared gradients. No gradients of single images are needed.

Outputs y' of any other kind, such as embeddings, are taken as means of normal distributions of one variance. Then
``v = r`` has the covariance of the gradient, and F measures the squared error of y'.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from basis.layers import as_maps, geometry, stored_values
from basis.modes import evaluation_mode
from basis.routing import on_any_rank
from basis.shard import CalibrationShard

PIXELS_AT_ONCE = 2**19
"""Pixels of the images of one backward pass, whose feature maps are all in memory: 10 images of 224x224."""
MOST_AT_ONCE = 32
"""Most images of one backward pass."""
BATCHES = 16
"""Least number of backward passes, if there are enough images: each is one draw of the squared gradients."""
VALUES_AT_ONCE = 2**20
"""Values of a gradient that are converted to float64 at a time."""


class GradientMoments(NamedTuple):
    """Second moments of the gradients of a layer's stored values, per image, as means over the rows of a group.

    The constant of a row is a value that is added to that output channel at every position, as a bias is.

    Attributes:
        squares: E[g^2] of the stored values, float64, (groups, F); zero if no gradient reaches them.
        products: E[g b], of the same shape, where b is the gradient of the constant of the same row. Zero for a layer
            that is not in ``absorbing``.
        constants: E[b^2], (groups, 1), or zero.
        outputs: Expected squared gradient of the outputs: a sum over positions and a mean over channels, without axes.
    """

    squares: Tensor
    products: Tensor
    constants: Tensor
    outputs: Tensor

    def centred(self, mean: Tensor) -> Tensor:
        """Return E[(g - mean b)^2]: the squared gradients if a constant of the outputs takes the mean of the inputs.

        Args:
            mean: Mean of the inputs, (groups, F).
        """
        return (self.squares - 2 * mean * self.products + mean.square() * self.constants).clamp_min(0)


def gradient_moments(
    model: nn.Module,
    names: Sequence[str],
    images: Tensor,
    *,
    absorbing: Collection[str] = (),
    seed: int = 0,
    shard: CalibrationShard | None = None,
    logits: bool = True,
) -> dict[str, GradientMoments]:
    """Measure the Fisher information of stored values, by backward passes over batches of the images.

    Args:
        model: The network; it is left as it is.
        names: Layers: convolutions and linear layers.
        images: Training images without labels, (N, C, H, W), on the model's device.
        absorbing: Regular layers among them that need ``GradientMoments.centred``.
        seed: Seed of the random signs.
        shard: Calibration shard of this rank; None if the rank holds all images.
        logits: True if the outputs are logits, (N, classes); False for other values, (N, ...).

    Returns:
        Layer name -> moments, in the order of the names. Layers that no gradient reaches on any rank are left out.

    Source:
        Fisher information of a network: Kunstner et al. 2019, arXiv 1905.12558.
    """
    if not names:
        return {}
    shard = shard or CalibrationShard.whole(len(images))
    modules = {name: model.get_submodule(name) for name in names}
    vector = _Signs(seed, shard).vector if logits else partial(_sign_vector, seed, shard.first)
    sums: dict[str, GradientMoments] = {}
    constants: dict[str, Tensor] = {}
    output_squares: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def on_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            def on_gradient(gradient: Tensor) -> None:
                total = gradient.square().sum(dtype=torch.float64) / len(stored_values(module))
                output_squares[name] = output_squares.get(name, torch.zeros_like(total)) + total
                if name in absorbing:
                    summed = as_maps(module, gradient).sum((0, 2, 3), dtype=torch.float64)
                    constants[name] = constants.get(name, torch.zeros_like(summed)) + summed

            if output.requires_grad:
                output.register_hook(on_gradient)

        return on_output

    with ExitStack() as hooks, torch.enable_grad(), evaluation_mode(model):
        for name, module in modules.items():
            hooks.callback(module.register_forward_hook(hook(name)).remove)
        values = hooks.enter_context(_with_gradients(modules))
        at_once = images_in_a_draw(images, len(images))
        for start in range(0, len(images), at_once):
            constants.clear()
            output_squares.clear()
            batch = images[start : start + at_once].detach().requires_grad_()
            outputs = model(batch).float()
            weighted = (outputs * vector(outputs.detach(), start)).sum()
            inputs = [batch, *values.values()]
            gradients: Sequence[Tensor | None] = torch.autograd.grad(weighted, inputs, allow_unused=True)[1:]
            for name, gradient in zip(values, gradients, strict=True):
                if gradient is not None or name in output_squares:
                    found = _moments(modules[name], gradient, constants.get(name), output_squares.get(name))
                    sums[name] = GradientMoments(*map(torch.add, sums[name], found)) if name in sums else found
    for name in on_any_rank(names, list(sums), shard):
        if name not in sums:
            sums[name] = _moments(modules[name], None, _no_constant(modules[name]) if name in absorbing else None, None)
        sums[name] = GradientMoments(*(shard.reduce(each).div_(shard.total) for each in sums[name]))
    return {name: sums[name] for name in names if name in sums}


def _no_constant(module: nn.Module) -> Tensor:
    values = stored_values(module)
    return torch.zeros(len(values), dtype=torch.float64, device=values.device)


def _moments(
    module: nn.Module, gradient: Tensor | None, constant: Tensor | None, outputs: Tensor | None
) -> GradientMoments:
    """Return the moments of one backward pass, as sums over its images.

    Args:
        module: The layer.
        gradient: Of its stored values; None if none reaches them.
        constant: Gradient of a constant of each output channel, (O,); None for a layer without products.
        outputs: Squared gradient of its outputs; None if none reaches them.
    """
    values = stored_values(module)
    groups = 1 if constant is None else geometry(module).groups
    squares = torch.zeros(groups, values[0].numel(), dtype=torch.float64, device=values.device)
    products, constants = torch.zeros_like(squares), torch.zeros_like(squares[:, :1])
    if constant is not None:
        by_row = constant.unflatten(0, (groups, -1, 1))
        constants = by_row.square().mean(1)
    if gradient is not None:
        rows = gradient.flatten(1).unflatten(0, (groups, -1))
        at_once = max(1, VALUES_AT_ONCE // squares.numel())
        for start in range(0, rows.shape[1], at_once):
            part = rows[:, start : start + at_once].to(torch.float64)
            squares += part.square().sum(1)
            if constant is not None:
                products += (part * by_row[:, start : start + at_once]).sum(1)
        squares, products = squares / rows.shape[1], products / rows.shape[1]
    return GradientMoments(squares, products, constants, constants.new_zeros(()) if outputs is None else outputs)


@contextmanager
def _with_gradients(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Return the stored values of layers by name; they require gradients until the end of the block."""
    values = {name: stored_values(module) for name, module in modules.items()}
    frozen = [each for each in values.values() if not each.requires_grad]
    try:
        for each in frozen:
            each.requires_grad_(True)
        yield values
    finally:
        for each in frozen:
            each.requires_grad_(False)


def images_at_once(images: Tensor) -> int:
    """Return the number of images, (N, C, H, W), of one backward pass."""
    return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // images[0, 0].numel()))


def images_in_a_draw(images: Tensor, count: int) -> int:
    """Return the number of images in one backward pass of ``gradient_moments``, for ``count`` images of this size."""
    return min(images_at_once(images), max(1, count // BATCHES))


def weights_in_use(model: nn.Module, names: Sequence[str], images: Tensor) -> set[str]:
    """Return the layers whose stored values change the logits of some images, whether or not the layers run.

    Args:
        model: The network.
        names: Layers: convolutions and linear layers.
        images: (N, C, H, W), on the model's device.
    """
    if not names:
        return set()
    modules = {name: model.get_submodule(name) for name in names}
    with torch.enable_grad(), evaluation_mode(model), _with_gradients(modules) as values:
        logits = model(images.detach().requires_grad_())
        gradients = torch.autograd.grad(logits.sum(), list(values.values()), allow_unused=True)
    return {name for name, gradient in zip(values, gradients, strict=True) if gradient is not None}


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
