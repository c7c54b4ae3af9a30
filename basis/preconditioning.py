"""Precondition the gradients of coefficients and kernels by the inverse covariance of the layers' inputs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from basis.cholesky import damped_cholesky, mean_diagonal
from basis.conv import SeriesConv2d, is_compressible
from basis.errors import NumericalError
from basis.gram_statistics import GramStatistics
from basis.layers import layer_operator, master_tensor, stored_tensor_name
from basis.modes import evaluation_mode
from basis.parts import WholeInputs
from basis.patches import MAX_FEATURES, feature_order, patch_batches, samples
from basis.shard import CalibrationShard

# Share of the inputs' mean square that is added in every direction. Low-energy directions are then amplified by at most
# (1 + INPUT_DAMPING) / INPUT_DAMPING. Measured in docs/training.md.
INPUT_DAMPING = 0.3


@contextmanager
def preconditioned_gradients(model: nn.Module, inverses: Mapping[str, Tensor]) -> Iterator[None]:
    """Precondition the gradients of spatial convolutions inside this context.

    Space of filters. A series ``W = B a`` has orthonormal columns in B. A plain step on its coefficients ``a``
    therefore moves the filters by their own gradient, projected on the series. It needs no preconditioner.

    Space of outputs. Filter-space steps move the outputs most along directions in which the inputs have high energy. We
    therefore right-multiply the gradient by ``P = (1 + d) s (A + d s I)^-1``, where ``A = E[z z^T]`` is the covariance
    of the basis-filtered inputs ``z = B^T x``, ``s`` the mean squared input and ``d = INPUT_DAMPING``. A direction of
    average energy keeps its step size; low-energy directions are amplified by at most ``(1 + d) / d``.

    Momentum is linear, so the same holds for it. The optimizer applies weight decay to coefficients and kernels.

    Args:
        model: A network on its final device; its coefficients and kernels may be parametrized.
        inverses: Layer name -> P, from ``inverse_input_covariance``. Layers without P keep their gradient.

    Source:
        Input covariance as a preconditioner: K-FAC for convolutions (Grosse and Martens 2016, arXiv 1602.01407) without
        its output factor, as in FOOF (Benzing 2022, arXiv 2201.12250).
    """
    hooked: set[int] = set()  # a tensor that two layers share uses the matrix of the first one
    with ExitStack() as hooks:
        for name, conv in _layers(model).items():
            master = master_tensor(conv)
            if name in inverses and id(master) not in hooked:
                hooked.add(id(master))
                hooks.callback(master.register_hook(_preconditioner(inverses[name])).remove)
        yield


@torch.no_grad()
def inverse_input_covariance(
    model: nn.Module,
    original: nn.Module,
    images: Tensor,
    *,
    shard: CalibrationShard | None = None,
    damping: float = INPUT_DAMPING,
    max_features: int = MAX_FEATURES,
) -> dict[str, Tensor]:
    """Measure the inverse input covariance of each spatial convolution, from its inputs in the original network.

    Args:
        model: The network to train. Measured are its series convolutions and the convolutions that could become one.
        original: The network before the swap. It runs once, in eval mode.
        images: Training images, (N, C, H, W), on the device of both.
        shard: Calibration shard of this rank; None if the rank holds all images.
        damping: d, a share of the mean squared input.
        max_features: Layers with more features F are left out.

    Returns:
        Layer name -> ``(1 + d) s (A + d s I)^-1`` of ``preconditioned_gradients``, (groups, F, F), with the
        features in the order of the flattened stored values. It is measured at the layer's first run, with A and s of
        each group. A group whose inputs are zero gets the identity. Layers that are frozen, do not run or have inputs
        that are not finite are left out.

    Raises:
        NumericalError: A matrix cannot be factored.
    """
    layers = {name: conv for name, conv in _layers(model).items() if _features(conv) <= max_features}
    inverses: dict[str, Tensor] = {}
    reached, whole = set[str](), WholeInputs(original, images)

    @torch.no_grad()  # a forward may enable gradients
    def on_input(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if name not in reached and len(inputs[0]) and not whole.running:
            reached.add(name)
            conv, x = layers[name], whole.of(module, inputs[0])
            gram, energy = _input_energy(conv, x.float(), shard or CalibrationShard.whole(len(images)))
            identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
            metric = torch.where(energy > 0, (gram / energy + damping * identity) / (1 + damping), identity)
            if bool(torch.isfinite(metric).all()):
                inverses[name] = _inverse(metric, master_tensor(conv))

    with ExitStack() as hooks:
        for name, module in original.named_modules():
            if name in layers:
                hooks.callback(module.register_forward_pre_hook(partial(on_input, name)).remove)
        hooks.enter_context(evaluation_mode(original))
        original(images)
    return inverses


def _layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Trainable spatial convolutions that learn one tensor of coefficients or taps, by name."""
    return {
        name: cast(nn.Conv2d, module)
        for name, module in model.named_modules()
        if (isinstance(module, SeriesConv2d) or is_compressible(module))
        and stored_tensor_name(module) is not None
        and isinstance(master := master_tensor(module), Tensor)  # a parametrization may have several originals
        and master.requires_grad
    }


def _features(conv: nn.Conv2d) -> int:
    return master_tensor(conv)[0].numel()


def _input_energy(conv: nn.Conv2d, x: Tensor, shard: CalibrationShard) -> tuple[Tensor, Tensor]:
    """``Z^T Z``, float64, (groups, F, F), and the mean squared input times the rows of Z, (groups, 1, 1)."""
    batches = patch_batches(conv, x, samples(conv, x, shard=shard), layer_operator(conv))
    statistics = GramStatistics.accumulate(batches).reordered(feature_order(conv, layer_operator(conv)))
    square = torch.zeros(conv.groups, dtype=torch.float64, device=x.device)
    for image in x:  # one at a time, because a float64 copy of all images would double the memory
        square += image.reshape(conv.groups, -1).to(torch.float64).square().mean(1)
    energy = square * (float(statistics.count) / max(1, len(x)))
    return shard.reduce(statistics.gram), shard.reduce(energy)[:, None, None]


def _inverse(metric: Tensor, master: Tensor) -> Tensor:
    """Invert finite matrices, (groups, F, F), and return them in the dtype of the layer's tensor.

    The matrices are sums of float32 products, so rounding may leave them not quite positive definite. Damping of a few
    float32 roundings then makes them so.
    """
    eps = torch.finfo(torch.float32).eps
    found = damped_cholesky(metric, mean_diagonal(metric), 0.0, smallest=eps)
    if found is None:
        raise NumericalError(
            f"preconditioning: the input covariance of {metric.shape[1]} features cannot be factored; allowed: a "
            "positive semi-definite matrix"
        )
    inverse: Tensor = torch.cholesky_inverse(found[0])
    return inverse.to(master.dtype)


def _preconditioner(inverse: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a hook that right-multiplies the rows of a gradient, (O, I / groups, ...), by P.

    Args:
        inverse: P, (groups, F, F).
    """

    def precondition(gradient: Tensor) -> Tensor:
        rows = gradient.reshape(len(inverse), -1, inverse.shape[-1])
        return torch.empty_like(gradient).copy_((rows @ inverse).view(gradient.shape))

    return precondition
