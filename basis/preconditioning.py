"""Gradient steps on coefficients and kernels that change a layer's outputs, not its parameters, by the gradient."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.conv import SeriesConv2d, is_compressible
from basis.patches import patch_batches, samples
from basis.portion import Portion

# Share of the largest eigenvalue of B^T B. High cosine orders are nearly dependent (11 of 11: condition 10^12), and the
# inverse would magnify the rounding of their float32 gradients; directions this faint learn more slowly instead.
DAMPING = 1e-4
# Share of the inputs' mean square that is added to every direction: those that the inputs hardly have step at most
# (1 + INPUT_DAMPING) / INPUT_DAMPING times as far as in the space of filters. Chosen by docs/training.md.
INPUT_DAMPING = 0.3
# A layer of more features than this steps in the space of filters: its matrix would take a quarter of a gigabyte.
MOST_FEATURES = 8192


@contextmanager
def preconditioned_gradients(model: nn.Module, grams: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """Inside this context, the gradients of spatial convolutions are taken in the space of filters or of outputs.

    With W = B a, the gradient of the coefficients is B^T g for the filters' gradient g. A step along it moves the
    filters by B B^T g: directions in which the basis functions are long, such as the constant one, run ahead of the
    others, and a learning rate that suits them is too small for the rest. With (B^T B)^-1 behind, the filters move by
    g B B^+, which is g projected on what the series can express: the two bases then train alike, and at the rates that
    suit ordinary convolutions. That is the space of filters.

    In it, the outputs still run ahead in the directions that the inputs x have much of, which their mean square in
    that direction says: E[x x^T]. A layer with a Gram matrix A = E[z z^T] of its basis-filtered inputs z = B^T x steps
    with (A + d s B^T B)^-1 (1 + d) s behind, where s is the mean square of an input and d is ``INPUT_DAMPING``: a
    direction of mean energy steps as far as before, and the others by what they change. Momentum and weight decay
    are linear, so the same holds for them.

    Args:
        model: A network on its final device; its coefficients and kernels may be parametrized.
        grams: Layer name -> A / s, from ``input_grams``. Series convolutions without one step in the space of filters,
            other layers as they are.

    Source:
        The inputs' second moments as a preconditioner: K-FAC for convolutions (Grosse and Martens 2016, arXiv
        1602.01407) without its output factor, as FOOF (Benzing 2022, arXiv 2201.12250).
    """
    known = grams or {}
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if (isinstance(module, SeriesConv2d) or name in known) and _master(module).requires_grad:
                inverse = _inverse(cast(nn.Conv2d, module), known.get(name))
                hooks.callback(_master(module).register_hook(_preconditioner(inverse)).remove)
        yield


@torch.no_grad()
def input_grams(
    model: nn.Module, original: nn.Module, images: Tensor, *, seed: int = 0, portion: Portion | None = None
) -> dict[str, Tensor]:
    """Measure what the spatial convolutions of a network are given, by the inputs that they have in the original.

    Args:
        model: The network that is to be trained: its series convolutions, and those that one could stand for.
        original: The network before the swap, in evaluation mode; it runs once.
        images: Training images, (N, 3, H, W), on the device of both.
        seed: Chooses the positions of large feature maps.
        portion: Where several processes share the images: which of them these are.

    Returns:
        Layer name -> the mean of z z^T by the mean square of an input, float64, (groups, F, F), with F as in
        ``basis.patches.patch_batches``; at a layer's first run. Layers that do not run, whose inputs are zero or not
        finite, or that have more than ``MOST_FEATURES``, are left out.
    """
    layers = {
        name: cast(nn.Conv2d, module)
        for name, module in model.named_modules()
        if isinstance(module, SeriesConv2d) or is_compressible(module)
    }
    found: dict[str, Tensor] = {}
    shared = portion or Portion.whole(len(images))

    def measure(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name not in found:
                found[name] = _relative_gram(layers[name], inputs[0].float(), seed, shared)

        return hook

    with ExitStack() as hooks:
        for name, module in original.named_modules():
            if name in layers and _stored(layers[name])[0].numel() <= MOST_FEATURES:
                hooks.callback(module.register_forward_pre_hook(measure(name)).remove)
        original(images)
    return {name: gram for name, gram in found.items() if bool(torch.isfinite(gram).all())}


def _relative_gram(conv: nn.Conv2d, x: Tensor, seed: int, portion: Portion) -> Tensor:
    """The mean of z z^T over sampled positions, by the mean square of x; not finite where that is 0."""
    chosen = samples(conv, x, seed=seed, portion=portion)
    features = _stored(conv)[0].numel()
    gram = torch.zeros(conv.groups, features, features, dtype=torch.float64, device=x.device)
    count = 0
    for rows in patch_batches(conv, x, chosen, _operator(conv)):
        gram += rows.mT @ rows
        count += rows.shape[1]
    energy = x.double().square().mean().cpu() * count
    relative: Tensor = portion.reduce(gram) / float(portion.reduce(energy))
    return relative


def _operator(conv: nn.Conv2d) -> Tensor | None:
    return conv.operator if isinstance(conv, SeriesConv2d) else None


def _stored(conv: nn.Conv2d) -> Tensor:
    """What a layer learns: coefficients or kernels, (O, I / groups, ...)."""
    return conv.coefficients if isinstance(conv, SeriesConv2d) else conv.weight


def _master(conv: nn.Module) -> nn.Parameter:
    """The parameter that the optimizer steps: coefficients or kernels, or what their parametrization starts from."""
    name = "coefficients" if isinstance(conv, SeriesConv2d) else "weight"
    if not parametrize.is_parametrized(conv, name):
        return cast(nn.Parameter, getattr(conv, name))
    chain = cast(nn.ModuleDict, conv.parametrizations)[name]
    return cast(nn.Parameter, chain.original)


def _inverse(conv: nn.Conv2d, gram: Tensor | None) -> Tensor:
    """What a gradient's rows are multiplied by: (groups, F, F), or (1, n, n) for every slice without a Gram matrix."""
    stored, operator = _stored(conv), _operator(conv)
    taps = operator if operator is not None else torch.eye(stored[0, 0].numel(), device=stored.device)
    lengths = taps.to(torch.float64).T @ taps.to(torch.float64)
    damping = DAMPING * torch.linalg.matrix_norm(lengths, 2)
    lengths = lengths + damping * torch.eye(len(lengths), dtype=lengths.dtype, device=lengths.device)
    metric = lengths[None]
    if gram is not None:
        slices = torch.eye(stored.shape[1], dtype=lengths.dtype, device=lengths.device)
        metric = (gram + INPUT_DAMPING * torch.kron(slices, lengths)) / (1 + INPUT_DAMPING)
    inverse: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(metric))
    return inverse.to(stored.dtype)


def _preconditioner(inverse: Tensor) -> Callable[[Tensor], Tensor]:
    """Gradient (O, I / groups, ...) -> its rows times the inverse, in the gradient's own layout."""

    def precondition(gradient: Tensor) -> Tensor:
        rows = gradient.reshape(len(inverse), -1, inverse.shape[-1])
        return torch.empty_like(gradient).copy_((rows @ inverse).view(gradient.shape))

    return precondition
