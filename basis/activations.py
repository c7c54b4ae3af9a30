"""The fit of coefficients to a layer's outputs, layer by layer, in one forward pass of the compressed network."""

import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from basis.additions import Addition, Additions, lacking, version
from basis.conv import SeriesConv2d
from basis.moments import Moments
from basis.patches import Sample, samples
from basis.pieces import in_pieces
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

    Where a layer's output, through its normalization or as it is, is then added to another tensor, as at the end of a
    residual block, the layer is fitted once more when the images reach the addition: so that the sum is the original's,
    as far as no channel's own output becomes worse by it than it was with the coefficients that the layer came with.

    Args:
        model: The network with series convolutions, fitted to their weights; changed in place.
        original: The network before the swap.
        images: Training images, (N, 3, H, W), on the device of both.
        seed: Chooses the positions of large feature maps.
        portion: Where several processes share the images: which of them these are. Every process then gets the
            coefficients, and the errors, of all images.

    Returns:
        Layer name -> relative output error, ||Y - Y'|| / ||Y||, of the layers that ran in both, with its own outputs in
        the original as Y.

    Example:
        >>> fit_activations(swap_convolutions(copy.deepcopy(net), plan, "cosine"), net, images)
        {'conv1': 0.012, ...}
    """
    return _visit(model, original, images, seed, portion or Portion.whole(len(images)), fits=True)


@torch.no_grad()
def output_errors(
    model: nn.Module, original: nn.Module, images: Tensor, *, seed: int = 0, portion: Portion | None = None
) -> dict[str, float]:
    """Measure the errors that ``fit_activations`` returns, and change nothing; arguments and result are the same."""
    return _visit(model, original, images, seed, portion or Portion.whole(len(images)), fits=False)


Norm = nn.BatchNorm2d | None


class _Originals(NamedTuple):
    """What the original network gives at the sampled positions, (groups, rows, O / groups).

    Attributes:
        outputs: Layer name -> its outputs at its first run.
        others: Layer name -> what its output, normalized if ``norms`` has it, is added to, if it runs once; empty where
            nothing is fitted.
        norms: Layer name -> name of the batch normalization with running statistics that its output goes into, if both
            run once.
    """

    outputs: dict[str, Tensor]
    others: dict[str, Tensor]
    norms: dict[str, str]


class _Visited(NamedTuple):
    """A layer that the images have just reached: its input; as columns, coefficients and bias as they came and are."""

    conv: SeriesConv2d
    norm: Norm
    x: Tensor
    version: int
    moments: Moments
    start: Tensor
    columns: Tensor


def _visit(
    model: nn.Module, original: nn.Module, images: Tensor, seed: int, portion: Portion, *, fits: bool
) -> dict[str, float]:
    modules = dict(model.named_modules())
    layers = {name: module for name, module in modules.items() if isinstance(module, SeriesConv2d)}
    seeds = {name: seed + zlib.crc32(name.encode()) for name in layers}
    targets, others, norms = _sampled_outputs(original, seeds, images, portion, fits=fits)
    errors: dict[str, float] = {}
    last: dict[str, _Visited] = {}

    def reach(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def visit(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name in targets:
                last.clear()
                conv, norm = cast(SeriesConv2d, module), cast(Norm, modules[norms[name]] if name in norms else None)
                moments = Moments(conv, inputs[0], targets.pop(name), seeds[name], portion)
                start = columns = _stored(conv)
                if fits:
                    left = moments.cross - moments.gram @ columns
                    columns = _moved(conv, norm, columns, _step(conv, norm, moments.gram, left))
                errors[name] = moments.relative_error(columns)
                if name in others:
                    last[name] = _Visited(conv, norm, inputs[0], version(inputs[0]), moments, start, columns)

        return visit

    def leave(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name in last:  # what is watched is kept in memory
                additions.watch(name, output)

        return watch

    def correct(addition: Addition) -> None:
        layer = last.pop(addition.name, None)
        if layer and addition.normalized == (layer.norm is not None) and version(layer.x) == layer.version:
            errors[addition.name] = _corrected(layer, addition, others.pop(addition.name))

    additions = Additions(correct)
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(reach(name)).remove)
            if fits:
                hooks.callback(layer.register_forward_hook(leave(name)).remove)
        if fits:
            hooks.enter_context(additions)
        _evaluate(model, images)
    return errors


def _sampled_outputs(
    original: nn.Module, seeds: Mapping[str, int], images: Tensor, portion: Portion, *, fits: bool
) -> _Originals:
    norms: dict[str, str] = {}

    def sampled(piece: Tensor, part: Portion) -> dict[tuple[str, str], Tensor]:
        nonlocal norms
        given = _outputs_of(original, seeds, piece, part, fits=fits)
        norms = given.norms
        kinds = ("output", given.outputs), ("other", given.others)
        return {(kind, name): rows for kind, kept in kinds for name, rows in kept.items()}

    found = in_pieces(images, portion, sampled)
    outputs, others = ({name: rows for (kind, name), rows in found.items() if kind == k} for k in ("output", "other"))
    return _Originals(outputs, others, norms)


def _outputs_of(
    original: nn.Module, seeds: Mapping[str, int], images: Tensor, portion: Portion, *, fits: bool
) -> _Originals:
    found: dict[str, Tensor] = {}
    others: dict[str, tuple[bool, Tensor]] = {}
    last: dict[str, tuple[Tensor, list[Sample], int]] = {}
    runs: Counter[str] = Counter()
    follows: dict[str, str] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            conv = cast(nn.Conv2d, module)
            chosen = samples(conv, inputs[0], seed=seeds[name], portion=portion)
            if not runs[name]:
                found[name] = _chosen(output, chosen, conv.groups)
            runs[name] += 1
            last.clear()
            last[name] = output, chosen, conv.groups
            additions.watch(name, output)

        return hook

    def meet(norm: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            runs[norm] += 1
            follows.update({name: norm for name, (output, _, _) in last.items() if output is inputs[0]})

        return hook

    def add(addition: Addition) -> None:
        _, chosen, groups = last[addition.name]
        others[addition.name] = addition.normalized, _chosen(addition.other, chosen, groups)

    additions = Additions(add)
    modules = dict(original.named_modules())
    with ExitStack() as hooks:
        for name in seeds:
            hooks.callback(modules[name].register_forward_hook(keep(name)).remove)
        for name, module in modules.items():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                hooks.callback(module.register_forward_pre_hook(meet(name)).remove)
        if fits:
            hooks.enter_context(additions)
        _evaluate(original, images)
    norms = {name: norm for name, norm in follows.items() if runs[name] == runs[norm] == 1}
    once = {name: kept for name, (normed, kept) in others.items() if runs[name] == 1 and normed == (name in norms)}
    return _Originals(found, once, norms)


def _chosen(outputs: Tensor, chosen: list[Sample], groups: int) -> Tensor:
    return torch.cat([sample.of(outputs.float(), groups) for sample in chosen], dim=1)


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


def _step(conv: SeriesConv2d, norm: Norm, gram: Tensor, left: Tensor) -> Tensor:
    """Ridge regression of what the present columns a leave: D of (G + r I) D = Z^T (Y - Z a)."""
    constant = conv.bias is not None or norm is not None
    features = left.shape[1] - (not constant)
    step = torch.zeros_like(left)
    step[:, :features] = ridge_solution(gram[:, :features, :features], left[:, :features])
    return step


def _moved(conv: SeriesConv2d, norm: Norm, columns: Tensor, step: Tensor) -> Tensor:
    """Set and return a + D."""
    moved = columns + step
    rows = moved.mT.flatten(0, 1)
    conv.coefficients.copy_(rows[:, :-1].reshape(conv.coefficients.shape))
    if conv.bias is not None:
        conv.bias.copy_(rows[:, -1])
    elif norm is not None and norm.running_mean is not None:
        norm.running_mean -= step.mT.flatten(0, 1)[:, -1]
    return moved


def _corrected(layer: _Visited, addition: Addition, originals: Tensor) -> float:
    """Fit a layer to what its sum lacks, and put its new outputs in place of the old; gives its own outputs' error.

    No channel moves so far that its own error would exceed the one that it came with.
    """
    conv, norm, x, _, moments, start, columns = layer
    lack = moments.products(lacking(addition, originals, moments.chosen, conv.groups, norm))
    step = _step(conv, norm, moments.gram, lack)
    columns = _moved(conv, norm, columns, moments.shares_within(start, columns, step) * step)
    addition.source.copy_(conv._conv_forward(x, conv.filters(), conv.bias))
    if norm is not None:
        addition.output.copy_(norm.forward(addition.source))
    return moments.relative_error(columns)
