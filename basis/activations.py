"""Fit coefficients to a layer's outputs, layer by layer, in one forward pass of the compressed network."""

import weakref
import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Final, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from basis import progress
from basis.additions import Addition, Additions, missing_output, version
from basis.cholesky import RIDGE, ridge_solution
from basis.computed import ComputedConv2d
from basis.conv import SeriesConv2d
from basis.gram_statistics import GramStatistics, cross_products, reordered
from basis.layers import as_maps, geometry, layer_operator, stored_columns, stored_values
from basis.modes import evaluation_mode, unobserved, without_autocast
from basis.original_outputs import OriginalOutputs, original_outputs
from basis.parts import WholeInputs
from basis.patches import Sample, by_sample, feature_order, patch_batches
from basis.routing import samples_of, warn_of_routing
from basis.sampling import DEFAULT_SAMPLING, SamplingConfig
from basis.shard import CalibrationShard
from basis.swap import with_regular_layers

Norm = nn.BatchNorm2d | None
Constrain: TypeAlias = Callable[[str, GramStatistics, Tensor, bool], Tensor]
"""Maps (layer name, Gram statistics, wanted columns, True if a bias or a mean absorbs a constant) to stored columns."""
KEPT_VALUES: Final = 2**25
"""Values of a layer's sampled rows that are kept for the addition that reads its output; more are gathered again."""


@torch.no_grad()
def fit_activations(
    model: nn.Module,
    original: nn.Module,
    images: Tensor,
    *,
    seed: int = 0,
    shard: CalibrationShard | None = None,
    sampling: SamplingConfig = DEFAULT_SAMPLING,
    ridge: float = RIDGE,
    correct_additions: bool = True,
) -> dict[str, float]:
    """Fit the coefficients so that each layer reproduces the original's outputs from the compressed network's inputs.

    A layer is fitted when the images reach it: its inputs come from the layers fitted before it. Its bias is fitted
    too. Without a bias, the running mean of its batch normalization absorbs the constant. The ridge pulls towards the
    present coefficients, so no layer becomes worse on the sampled positions. If a layer runs several times, its first
    run is fitted, or all runs if each has a part of the images. A layer that some images do not reach is not fitted.

    At the end of a residual block, the layer's output is added to a shortcut, directly or after its normalization. The
    layer is then fitted once more, so that the sum matches the original's sum. This step is limited for each channel:
    its own output error does not exceed the error of the coefficients before the fit.

    Args:
        model: The network with series convolutions, fitted to their weights; changed in place.
        original: The network before the swap.
        images: Training images, (N, C, H, W), on the device of both.
        seed: Seed of the sampled positions of large feature maps.
        shard: Calibration shard of this rank; None if the rank holds all images. Every rank returns the errors, and
            stores the coefficients, of all images.
        sampling: Sizes of samples and chunks.
        ridge: Ridge as a share of the mean diagonal of the Gram matrix; the scarcity of the rows is added.
        correct_additions: Fit a layer once more at the addition that reads its output.

    Returns:
        Layer name -> relative output error ``||Y - Y'|| / ||Y||`` from the original's output Y, for layers that ran.

    Raises:
        NumericalError: An input or output of a layer is not finite, or a Gram matrix cannot be factored.

    Example:
        >>> fit_activations(swap_convolutions(copy.deepcopy(net), plan, "cosine"), net, images)
        {'conv1': 0.012, ...}
    """
    shard = shard or CalibrationShard.whole(len(images))
    seeds = _series_seeds(model, seed)
    targets = original_outputs(original, seeds, images, shard, sampling, additions=correct_additions)
    return LayerwiseFit(model, targets, seeds, shard, sampling, ridge=ridge).run(images)


@torch.no_grad()
def output_errors(
    model: nn.Module,
    original: nn.Module,
    images: Tensor,
    *,
    seed: int = 0,
    shard: CalibrationShard | None = None,
    sampling: SamplingConfig = DEFAULT_SAMPLING,
) -> dict[str, float]:
    """Measure the relative output errors without a fit; arguments and result as in ``fit_activations``.

    Convolutions of parametric families are measured, too.
    """
    shard = shard or CalibrationShard.whole(len(images))
    names = [name for name, module in model.named_modules() if isinstance(module, ComputedConv2d)]
    model, seeds = with_regular_layers(model), layer_seeds(names, seed)
    targets = original_outputs(original, seeds, images, shard, sampling, additions=False)
    return LayerwiseFit(model, targets, seeds, shard, sampling, ridge=None).run(images)


class _FittedLayer(NamedTuple):
    """The layer that the images reached last.

    Attributes:
        conv: The layer; additions are corrected for convolutions only.
        norm: The batch normalization that reads its output, if any.
        x: Its input.
        version: The input's version when it was read.
        chosen: The sampled positions.
        batches: The rows of the sampled positions; None if they are too many to keep.
        statistics: Gram statistics of its rows, with the constant of the bias as the last feature.
        start: Coefficients and bias before the fit, (groups, F, O / groups).
        columns: Coefficients and bias that the fit wants, the same shape.
        stored: Coefficients and bias now, the same shape; other than ``columns`` if they are constrained.
    """

    conv: nn.Conv2d
    norm: Norm
    x: Tensor
    version: int
    chosen: list[Sample]
    batches: list[Tensor] | None
    statistics: GramStatistics
    start: Tensor
    columns: Tensor
    stored: Tensor


class LayerwiseFit:
    """Hooks of one forward pass that fit, or only measure, each layer when the images reach it.

    Args:
        model: The network; changed in place if there is a ridge.
        targets: Outputs of the original network. The pass removes each output that it has used.
        seeds: Layer name -> seed of its sampled positions.
        shard: Calibration shard of this rank.
        sampling: Sizes of samples.
        ridge: Ridge of the fit, see ``fit_activations``; None to measure the errors only.
        constrain: Rounds the columns that the fit wants; None stores them as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: OriginalOutputs,
        seeds: dict[str, int],
        shard: CalibrationShard,
        sampling: SamplingConfig,
        *,
        ridge: float | None,
        constrain: Constrain | None = None,
    ) -> None:
        self._constrain = constrain
        self._model, self._seeds, self._shard, self._sampling, self._ridge = model, seeds, shard, sampling, ridge
        self._targets, self._shortcuts = targets.outputs, targets.shortcuts
        self._modules = dict(model.named_modules())
        self._norms = {name: cast(nn.BatchNorm2d, self._modules[norm]) for name, norm in targets.norms.items()}
        self._last: dict[str, _FittedLayer] = {}  # at most one layer
        self._errors: dict[str, float] = {}
        # A reference to this object would keep the maps of the pass until the garbage collector runs.
        self._additions = Additions(partial(LayerwiseFit.on_addition, weakref.proxy(self)))

    def run(self, images: Tensor) -> dict[str, float]:
        """Run the network on the calibration images of this rank, float32, (N, C, H, W), in eval mode.

        Returns:
            Layer name -> relative output error, in the order of the first runs.
        """
        self._whole = WholeInputs(self._model, images)
        with ExitStack() as hooks:
            for name in self._seeds:
                layer = self._modules[name]
                hooks.callback(layer.register_forward_pre_hook(partial(self.on_input, name)).remove)
                if self._ridge is not None:
                    hooks.callback(layer.register_forward_hook(partial(self.on_output, name)).remove)
            if self._ridge is not None:
                hooks.enter_context(self._additions)
            hooks.enter_context(evaluation_mode(self._model))
            self._model(images)
        return self._errors

    @torch.no_grad()  # a forward may enable gradients
    def on_input(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Fit the layer to the original's outputs, at its first run."""
        if name in self._targets and not self._whole.running:
            self._last.clear()
            x = self._whole.of(module, inputs[0])
            with progress.layer(name), without_autocast(x.device), unobserved():
                self._fit(name, module, x, in_parts=x is not inputs[0])

    def _fit(self, name: str, module: nn.Module, x: Tensor, *, in_parts: bool) -> None:
        norm, maps, wanted = self._norms.get(name), as_maps(module, x), self._targets.pop(name)
        conv, rows = geometry(module), wanted.shape[1]
        chosen = samples_of(rows, conv, maps, seed=self._seeds[name], shard=self._shard, sampling=self._sampling)
        if not chosen:
            warn_of_routing(name)
            return
        outputs = by_sample(wanted, chosen)
        watched = name in self._shortcuts and isinstance(module, nn.Conv2d) and not in_parts
        batches = _batches(module, maps, chosen)
        kept = list(batches) if watched and _values(module, chosen) <= KEPT_VALUES else None
        start = stored = columns = stored_columns(module)
        order = feature_order(conv, layer_operator(module))
        statistics = GramStatistics.accumulate(kept or batches, outputs, constant=True).reordered(order)
        statistics = statistics.reduced(self._shard)
        statistics.check_finite(name)
        if self._ridge is not None:
            columns = start + self._step(module, norm, statistics, statistics.cross - statistics.gram @ start)
            stored = self._store(name, module, norm, statistics, columns, start)
        self._errors[name] = statistics.relative_error(stored)
        if watched:
            self._last[name] = _FittedLayer(conv, norm, x, version(x), chosen, kept, statistics, start, columns, stored)

    def on_output(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Watch the output of the layer that was just fitted, if its addition is to be corrected.

        A watched output stays in memory.
        """
        if name in self._last:
            self._additions.watch(name, output)

    @torch.no_grad()  # a forward may enable gradients
    def on_addition(self, addition: Addition) -> None:
        """Fit the layer once more so that the sum matches, and replace its outputs by the new ones."""
        layer = self._last.pop(addition.name, None)
        if layer is None or addition.normalized != (layer.norm is not None) or version(layer.x) != layer.version:
            return
        conv, norm, x, _, chosen, kept, statistics, start, columns, stored = layer
        missing = missing_output(addition, self._shortcuts.pop(addition.name), chosen, conv.groups, norm)
        with without_autocast(x.device):
            cross = cross_products(kept or _batches(conv, x, chosen), missing, constant=True)
        cross = self._shard.reduce(reordered(cross, feature_order(conv, layer_operator(conv)), 1))
        step = self._step(conv, norm, statistics, cross)
        columns = columns + statistics.largest_step_share(start, columns, step) * step
        stored = self._store(addition.name, conv, norm, statistics, columns, stored)
        kernel = conv.filters() if isinstance(conv, SeriesConv2d) else conv.weight
        addition.source.copy_(conv._conv_forward(x, kernel, conv.bias))
        if norm is not None:
            addition.output.copy_(norm.forward(addition.source))
        self._errors[addition.name] = statistics.relative_error(stored)

    def _step(self, layer: nn.Module, norm: Norm, statistics: GramStatistics, cross: Tensor) -> Tensor:
        """Solve ``(G + r I) D = Z^T E`` for the residual E; the constant only if a bias or a mean can absorb it."""
        assert self._ridge is not None
        features = cross.shape[1] if _absorbs(layer, norm) else cross.shape[1] - 1
        gram = statistics.steadied()[:, :features, :features]
        step = torch.zeros_like(cross)
        step[:, :features] = ridge_solution(gram, cross[:, :features], self._ridge)
        return step

    def _store(
        self,
        name: str,
        layer: nn.Module,
        norm: Norm,
        statistics: GramStatistics,
        columns: Tensor,
        stored: Tensor,
    ) -> Tensor:
        """Store the columns, constrained, and return them; without a bias, the running mean absorbs the constant."""
        if self._constrain is not None:
            columns = self._constrain(name, statistics, columns, _absorbs(layer, norm))
        rows = columns.mT.flatten(0, 1)
        values = stored_values(layer)
        values.copy_(rows[:, :-1].reshape(values.shape))
        bias = _bias(layer)
        if bias is not None:
            bias.copy_(rows[:, -1])
        elif norm is not None and norm.running_mean is not None:
            norm.running_mean -= (columns - stored).mT.flatten(0, 1)[:, -1]
        return columns


def layer_seeds(names: Iterable[str], seed: int) -> dict[str, int]:
    """Return the seed of each layer's sampled positions, which depends on its name: other layers may come or go."""
    return {name: seed + zlib.crc32(name.encode()) for name in names}


def _series_seeds(model: nn.Module, seed: int) -> dict[str, int]:
    return layer_seeds((name for name, module in model.named_modules() if isinstance(module, SeriesConv2d)), seed)


def _absorbs(layer: nn.Module, norm: Norm) -> bool:
    """Return True if a bias or a running mean can absorb a constant of the layer's outputs."""
    return _bias(layer) is not None or norm is not None


def _bias(layer: nn.Module) -> Tensor | None:
    return cast("Tensor | None", layer.bias)


def _batches(layer: nn.Module, maps: Tensor, chosen: list[Sample]) -> Iterable[Tensor]:
    return patch_batches(geometry(layer), maps.float(), chosen, layer_operator(layer))


def _values(layer: nn.Module, chosen: list[Sample]) -> int:
    """Return the number of values of the rows of all samples."""
    return geometry(layer).groups * stored_values(layer)[0].numel() * sum(sample.rows for sample in chosen)
