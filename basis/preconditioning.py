"""Gradient steps on coefficients and kernels that change a layer's outputs, not its parameters, by the gradient."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from basis.conv import SeriesConv2d, is_compressible
from basis.patches import MOST_FEATURES, patch_batches, samples
from basis.portion import Portion

# Share of the largest eigenvalue of B^T B. High cosine orders are nearly dependent (11 of 11: condition 10^12), and the
# inverse would magnify the rounding of their float32 gradients; directions this faint learn more slowly instead.
DAMPING = 1e-4
# Share of the inputs' mean square that is added to every direction: those that the inputs hardly have step at most
# (1 + INPUT_DAMPING) / INPUT_DAMPING times as far as in the space of filters. Chosen by docs/training.md.
INPUT_DAMPING = 0.3


@contextmanager
def preconditioned_gradients(model: nn.Module, inverses: Mapping[str, Tensor] | None = None) -> Iterator[None]:
    """Inside this context, the gradients of spatial convolutions are taken in the space of filters or of outputs.

    With W = B a, the gradient of the coefficients is B^T g for the filters' gradient g. A step along it moves the
    filters by B B^T g: directions in which the basis functions are long, such as the constant one, run ahead of the
    others, and a learning rate that suits them is too small for the rest. With (B^T B)^-1 behind, the filters move by
    g B B^+, which is g projected on what the series can express: the two bases then train alike, and at the rates that
    suit ordinary convolutions. That is the space of filters.

    In it, the outputs still run ahead in the directions that the inputs x have much of. With
    (A + d s B^T B)^-1 (1 + d) s behind, a direction of mean energy steps as far as before, and the others by what they
    change: A = E[z z^T] is of the layer's basis-filtered inputs z = B^T x, s the mean square of an input and d
    ``INPUT_DAMPING``.

    Momentum is linear, so the same holds for it. Weight decay is the optimizer's, on coefficients and kernels.

    Args:
        model: A network on its final device; its coefficients and kernels may be parametrized.
        inverses: Layer name -> the second matrix, from ``inverse_moments``. Series convolutions without one step in the
            space of filters, other layers as they are.

    Source:
        The inputs' second moments as a preconditioner: K-FAC for convolutions (Grosse and Martens 2016, arXiv
        1602.01407) without its output factor, as FOOF (Benzing 2022, arXiv 2201.12250).
    """
    known = inverses or {}
    steered: set[int] = set()  # tensors that two layers share step by the first one's
    with ExitStack() as hooks:
        for name, conv in _layers(model).items():
            master = cast(Tensor, _master(conv))
            if (isinstance(conv, SeriesConv2d) or name in known) and id(master) not in steered:
                steered.add(id(master))
                inverse = known[name] if name in known else _inverse(_lengths(conv)[None], master)
                hooks.callback(master.register_hook(_preconditioner(inverse)).remove)
        yield


@torch.no_grad()
def inverse_moments(
    model: nn.Module, original: nn.Module, images: Tensor, *, portion: Portion | None = None
) -> dict[str, Tensor]:
    """Measure what the spatial convolutions of a network are given, by the inputs that they have in the original.

    Args:
        model: The network that is to be trained: its series convolutions, and those that one could stand for.
        original: The network before the swap, in evaluation mode; it runs once.
        images: Training images, (N, 3, H, W), on the device of both.
        portion: Where several processes share the images: which of them these are.

    Returns:
        Layer name -> (A + d s B^T B)^-1 (1 + d) s of ``preconditioned_gradients``, (groups, F, F), with F as in
        ``basis.patches.patch_batches``, at a layer's first run; each group has its own A and s, and (B^T B)^-1 where
        its inputs are zero. Layers that are frozen, do not run, have inputs that are not finite, or more than
        ``MOST_FEATURES``, are left out.
    """
    layers = {name: conv for name, conv in _layers(model).items() if _features(conv) <= MOST_FEATURES}
    found: dict[str, Tensor] = {}
    reached: set[str] = set()

    def measure(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name not in reached:
                reached.add(name)
                conv, lengths = layers[name], _lengths(layers[name])
                gram, energy = _moments(conv, inputs[0].float(), portion or Portion.whole(len(images)))
                slices = torch.eye(conv.in_channels // conv.groups, dtype=lengths.dtype, device=lengths.device)
                flat = torch.kron(slices, lengths)
                metric = torch.where(energy > 0, (gram / energy + INPUT_DAMPING * flat) / (1 + INPUT_DAMPING), flat)
                if bool(torch.isfinite(metric).all()):
                    found[name] = _inverse(metric, cast(Tensor, _master(conv)))

        return hook

    with ExitStack() as hooks:
        for name, module in original.named_modules():
            if name in layers:
                hooks.callback(module.register_forward_pre_hook(measure(name)).remove)
        original(images)
    return found


def _layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The spatial convolutions of a network that learn one tensor of coefficients or taps."""
    return {
        name: cast(nn.Conv2d, module)
        for name, module in model.named_modules()
        if (isinstance(module, SeriesConv2d) or is_compressible(module))
        and (master := _master(module)) is not None
        and master.requires_grad
    }


def _master(conv: nn.Module) -> Tensor | None:
    """The tensor that the optimizer steps: coefficients or kernels, or where their parametrization starts from."""
    name = "coefficients" if isinstance(conv, SeriesConv2d) else "weight"
    if not parametrize.is_parametrized(conv, name):
        return cast(Tensor, getattr(conv, name))
    chain = cast(nn.ModuleDict, conv.parametrizations)[name]
    return cast("Tensor | None", getattr(chain, "original", None))


def _operator(conv: nn.Conv2d) -> Tensor | None:
    return conv.operator if isinstance(conv, SeriesConv2d) else None


def _features(conv: nn.Conv2d) -> int:
    return cast(Tensor, _master(conv))[0].numel()


def _lengths(conv: nn.Conv2d) -> Tensor:
    """B^T B, float64, steadied by ``DAMPING``; for a kernel the identity."""
    operator, master = _operator(conv), cast(Tensor, _master(conv))
    taps = torch.eye(master[0, 0].numel(), device=master.device) if operator is None else operator
    lengths = taps.to(torch.float64).T @ taps.to(torch.float64)
    damping = DAMPING * torch.linalg.matrix_norm(lengths, 2)
    steadied: Tensor = lengths + damping * torch.eye(len(lengths), dtype=lengths.dtype, device=lengths.device)
    return steadied


def _moments(conv: nn.Conv2d, x: Tensor, portion: Portion) -> tuple[Tensor, Tensor]:
    """Z^T Z of sampled positions, float64, (groups, F, F), and as many times the mean square of x, (groups, 1, 1)."""
    chosen, features = samples(conv, x, portion=portion), _features(conv)
    gram = torch.zeros(conv.groups, features, features, dtype=torch.float64, device=x.device)
    square = torch.zeros(conv.groups, dtype=torch.float64, device=x.device)
    count = 0
    for rows in patch_batches(conv, x, chosen, _operator(conv)):
        gram += rows.mT @ rows
        count += rows.shape[1]
    for image in x:  # one at a time: in float64 all of them would take twice what they take
        square += image.reshape(conv.groups, -1).to(torch.float64).square().mean(1)
    energy = square * (count / max(1, len(x)))
    return portion.reduce(gram), portion.reduce(energy)[:, None, None]


def _inverse(metric: Tensor, master: Tensor) -> Tensor:
    """The inverses of finite matrices, (groups, F, F), in the type of a layer's tensor.

    They are sums of products in float32, and may fall a little short of being positive definite; then a share of the
    mean diagonal is added, ten times as much until it is enough.
    """
    factor, failures = torch.linalg.cholesky_ex(metric)
    ridge = torch.finfo(torch.float32).eps * metric.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    while bool(failures.any()):
        factor, failures = torch.linalg.cholesky_ex(metric + ridge * torch.eye(metric.shape[1]).to(metric))
        ridge = ridge * 10
    inverse: Tensor = torch.cholesky_inverse(factor)
    return inverse.to(master.dtype)


def _preconditioner(inverse: Tensor) -> Callable[[Tensor], Tensor]:
    """Gradient (O, I / groups, ...) -> its rows times the inverse, (groups, F, F) or (1, n, n), in its own layout."""

    def precondition(gradient: Tensor) -> Tensor:
        rows = gradient.reshape(len(inverse), -1, inverse.shape[-1])
        return torch.empty_like(gradient).copy_((rows @ inverse).view(gradient.shape))

    return precondition
