"""The fit of coefficients to a layer's outputs, layer by layer, in one forward pass of each of the two networks."""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import cast

import torch
from torch import Tensor, nn

from basis.conv import SeriesConv2d
from basis.patches import patch_batches, samples
from basis.portion import Portion
from basis.ridge import ridge_solution


@torch.no_grad()
def fit_activations(
    model: nn.Module, original: nn.Module, images: Tensor, *, seed: int = 0, portion: Portion | None = None
) -> dict[str, float]:
    """Set the coefficients so that each layer reproduces the original's outputs from the compressed network's inputs.

    A layer is fitted when the images reach it, so its inputs are those that the fitted layers before it give. Its bias
    is fitted with it; where a normalization takes the place of the bias, the running mean takes up the constant. The
    ridge pulls to the coefficients that it has, so on the positions seen no layer becomes worse than they are. A layer
    that runs several times is fitted at its first run; one that never runs keeps its coefficients.

    Args:
        model: The network with series convolutions, fitted to their weights; changed in place.
        original: The network before the swap.
        images: Training images, (N, 3, H, W), on the device of both.
        seed: Chooses the positions of large feature maps.
        portion: Where several processes share the images: which of them these are. Every process then gets the
            coefficients, and the errors, of all images.

    Returns:
        Layer name -> relative output error, ||Y - Y'|| / ||Y||, of the layers that ran.

    Example:
        >>> fit_activations(swap_convolutions(copy.deepcopy(net), plan, "cosine"), net, images)
        {'conv1': 0.012, ...}
    """
    return _visit(model, original, images, seed, portion or Portion.whole(len(images)), _solve)


@torch.no_grad()
def output_errors(
    model: nn.Module, original: nn.Module, images: Tensor, *, seed: int = 0, portion: Portion | None = None
) -> dict[str, float]:
    """Measure what ``fit_activations`` minimises, and change nothing; arguments and result are the same."""
    shared = portion or Portion.whole(len(images))
    return _visit(model, original, images, seed, shared, lambda conv, norm, moments: _stored(conv))


class _Moments:
    """Sums over one layer's sampled positions in all images: what the squared error of any coefficients follows from.

    Attributes:
        gram: Z^T Z of the basis-filtered patches Z, (groups, F, F); the last feature is the bias' constant 1.
        cross: Z^T Y with the original outputs Y, (groups, F, O / groups).
        square: The sum of Y^2.
    """

    def __init__(self, conv: SeriesConv2d, x: Tensor, targets: list[Tensor], seed: int, portion: Portion) -> None:
        features, outputs = conv.coefficients[0].numel() + 1, conv.out_channels // conv.groups
        self.gram = torch.zeros(conv.groups, features, features, dtype=torch.float64, device=x.device)
        self.cross = torch.zeros(conv.groups, features, outputs, dtype=torch.float64, device=x.device)
        square = 0.0
        batches = patch_batches(conv, x, samples(conv, x, seed=seed, portion=portion), conv.operator)
        # Products of a batch in float32, which is what the layer itself computes in; their sums in float64.
        for rows, target in zip(batches, targets, strict=True):
            z = torch.cat([rows, torch.ones_like(rows[..., :1])], dim=2)
            self.gram += z.mT @ z
            self.cross += z.mT @ target
            square += float(target.double().square().sum())
        self.gram, self.cross = portion.reduce(self.gram), portion.reduce(self.cross)
        self.square = float(portion.reduce(torch.tensor(square, dtype=torch.float64)))

    def relative_error(self, columns: Tensor) -> float:
        """||Y - Z a|| / ||Y|| for coefficients and bias a, (groups, F, O / groups); 0 where Y is 0."""
        squared = self.square + float((columns * (self.gram @ columns - 2 * self.cross)).sum())
        return float((max(squared, 0.0) / self.square) ** 0.5) if self.square > 0 else 0.0


Norm = nn.BatchNorm2d | None
Change = Callable[[SeriesConv2d, Norm, _Moments], Tensor]


def _visit(
    model: nn.Module, original: nn.Module, images: Tensor, seed: int, portion: Portion, change: Change
) -> dict[str, float]:
    modules = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, SeriesConv2d)}
    seeds = {name: seed + zlib.crc32(name.encode()) for name in layers}
    targets, norms = _sampled_outputs(original, seeds, images, portion)
    errors: dict[str, float] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def visit(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name not in errors:
                conv, norm = cast(SeriesConv2d, module), cast(Norm, modules[norms[name]] if name in norms else None)
                moments = _Moments(conv, inputs[0].float(), targets.pop(name), seeds[name], portion)
                errors[name] = moments.relative_error(change(conv, norm, moments))

        return visit

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(hook(name)).remove)
        _evaluate(model, images)
    return errors


def _sampled_outputs(
    original: nn.Module, seeds: Mapping[str, int], images: Tensor, portion: Portion
) -> tuple[dict[str, list[Tensor]], dict[str, str]]:
    """What each layer gives at its first run, and which normalization reads just that.

    Returns:
        Layer name -> outputs, (groups, rows, O / groups) for each of its samples; and layer name -> name of the batch
        normalization with running statistics that its output goes into, if both run once.
    """
    found: dict[str, list[Tensor]] = {}
    last: dict[str, Tensor] = {}
    runs: Counter[str] = Counter()
    follows: dict[str, str] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            conv = cast(nn.Conv2d, module)
            if not runs[name]:
                chosen = samples(conv, inputs[0], seed=seeds[name], portion=portion)
                found[name] = [sample.of(output.float(), conv.groups) for sample in chosen]
            runs[name] += 1
            last.clear()
            last[name] = output

        return hook

    def meet(norm: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            runs[norm] += 1
            follows.update({name: norm for name, output in last.items() if output is inputs[0]})

        return hook

    modules = dict(original.named_modules())
    with ExitStack() as hooks:
        for name in seeds:
            hooks.callback(modules[name].register_forward_hook(keep(name)).remove)
        for name, module in modules.items():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                hooks.callback(module.register_forward_pre_hook(meet(name)).remove)
        _evaluate(original, images)
    return found, {name: norm for name, norm in follows.items() if runs[name] == runs[norm] == 1}


def _evaluate(model: nn.Module, images: Tensor) -> None:
    """One forward pass in evaluation mode; every module's own mode is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        model(images)
    finally:
        for module in training:
            module.training = True


def _stored(conv: SeriesConv2d) -> Tensor:
    """Coefficients and bias (or 0) as columns, float64: (groups, F, O / groups)."""
    bias = torch.zeros_like(conv.coefficients[:, 0, 0, 0]) if conv.bias is None else conv.bias
    columns = torch.cat([conv.coefficients.flatten(1), bias[:, None]], dim=1).to(torch.float64)
    stored: Tensor = columns.unflatten(0, (conv.groups, -1)).mT
    return stored


def _solve(conv: SeriesConv2d, norm: Norm, moments: _Moments) -> Tensor:
    """Ridge regression of what the present coefficients leave: (G + r I) D = Z^T (Y - Z a); sets and returns a + D."""
    columns = _stored(conv)
    constant = conv.bias is not None or norm is not None
    features = columns.shape[1] - (not constant)
    left = (moments.cross - moments.gram @ columns)[:, :features]
    columns[:, :features] += ridge_solution(moments.gram[:, :features, :features], left)
    rows = columns.mT.flatten(0, 1)
    conv.coefficients.copy_(rows[:, :-1].reshape(conv.coefficients.shape))
    if conv.bias is not None:
        conv.bias.copy_(rows[:, -1])
    elif norm is not None and norm.running_mean is not None:
        norm.running_mean -= rows[:, -1]
    return columns
