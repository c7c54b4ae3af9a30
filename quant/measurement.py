"""Measure what an error of each term of a network costs, for rounding to steps.

Images pass through the network once, in batches, with the original's values. The first of them are also passed back for
the Fisher information. Hooks add up the Gram matrices of the layers' inputs at sampled positions.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from basis.gram_statistics import reordered, self_products
from basis.layers import as_maps, geometry, layer_operator, stored_layers, stored_values
from basis.memory import release_memory
from basis.modes import evaluation_mode, without_autocast
from basis.patches import feature_order, patch_batches, samples
from basis.routing import on_any_rank
from basis.sampling import SamplingConfig
from basis.shard import CalibrationShard
from quant.original_pass import OriginalPass
from quant.rate import LayerMeasurement
from quant.sensitivity import GradientMoments, gradient_moments, images_at_once, weights_in_use
from quant.step_rounding import DAMPING, hessian_of, measure_freedoms

logger = logging.getLogger(__name__)

FREEDOM_IMAGES: Final = 512
"""Images from which freedoms are measured, if one rank holds all images."""
FISHER_PIXELS: Final = 2**22
"""Pixels of the images from which the Fisher information is measured, if one rank holds all images.

At least 64 and at most ``FREEDOM_IMAGES`` images are used. Of large images 64 suffice, because a factor that all layers
share has no effect.
"""
FREEDOM_POSITIONS: Final = 2**14
"""Output positions of a layer from which its freedoms are measured."""
MIN_COST: Final = 1e-12
"""Least loss by an error of a term as large as its layer's values, as a share of the largest of all such losses.

A layer without any effect still gets steps.
"""

_NOTHING: Final = torch.zeros((), dtype=torch.float64)
_OUTPUTS_ALONE: Final = GradientMoments(_NOTHING, _NOTHING, _NOTHING, torch.ones((), dtype=torch.float64))


def measure_layers(
    model: nn.Module, original: OriginalPass, *, seed: int = 0, logits: bool = True
) -> dict[str, LayerMeasurement]:
    """Measure the costs of all layers that run.

    Args:
        model: The network to be rounded, with the original's values; it is left as it is.
        original: The original network's pass. If one rank has all images, its first ones are enough.
        seed: Seed of the random signs of ``gradient_moments``.
        logits: See ``gradient_moments``.

    Returns:
        Layer name -> measurement, in the order in which the layers run.

    Raises:
        NumericalError: A Hessian is not positive semi-definite.
    """
    names, sampling = list(stored_layers(model)), original.sampling
    sampling = replace(sampling, positions=min(sampling.positions, FREEDOM_POSITIONS))
    images, shard = original.images, original.shard
    judged, judged_shard = images, shard
    if shard.total == len(images):
        images = images[:FREEDOM_IMAGES]
        judged = images[: max(64, FISHER_PIXELS // images[0, 0].numel())]
        shard, judged_shard = CalibrationShard.whole(len(images)), CalibrationShard.whole(len(judged))
    inputs = _Inputs(model, original.seeds, shard, sampling)
    absorbing = {name for name in original.seeds if original.absorbs(model.get_submodule(name), name)}
    with inputs.recorded(names):
        gradients = gradient_moments(
            model, names, judged, absorbing=absorbing, seed=seed, shard=judged_shard, logits=logits
        )
        with torch.no_grad(), evaluation_mode(model):
            for start in range(len(judged), len(images), images_at_once(images)):
                model(images[start : start + images_at_once(images)])
    costs = {
        name: inputs.costs(name, gradients.get(name, _OUTPUTS_ALONE), absorbs=name in absorbing)
        for name in inputs.reached()
    }
    release_memory()
    _scale_unreached(costs, model, gradients)
    _warn_of_idle(model, [name for name in names if name not in costs], images)
    least = _least_costs(costs, model)
    return {name: LayerMeasurement(each.clamp_min(least[name])) for name, each in costs.items()}


def _least_costs(costs: Mapping[str, Tensor], model: nn.Module) -> dict[str, float]:
    """Return the least cost of a term in each layer, in the unit of the layer's values.

    If a layer's values are a million times as large as those of another one, its costs are far smaller, but not its
    effect. Costs alone therefore say nothing. The least cost of a layer of zeros is a share of the largest cost.
    """
    squares = {
        name: float(stored_values(model.get_submodule(name)).detach().double().square().mean()) for name in costs
    }
    largest = {name: float(each.max()) for name, each in costs.items()}
    cost = MIN_COST * max(largest.values(), default=0.0)
    loss = MIN_COST * max((largest[name] * square for name, square in squares.items()), default=0.0)
    return {name: (loss / square if square else cost) or 1.0 for name, square in squares.items()}


def _scale_unreached(costs: dict[str, Tensor], model: nn.Module, reached: Container[str]) -> None:
    """Scale the costs of layers that no gradient reaches, so that a value gets as many bits as in the median layer.

    Such a layer runs, but the outputs do not depend on it, as on another head. Or they depend on it without a gradient,
    as on a gate that takes the largest of its outputs. If all its values are zero, they need no bits, and its costs
    become 0.

    Args:
        costs: Layer name -> costs, which are changed. Without gradients, they compare only within a layer.
        model: The network.
        reached: Layers that gradients reach.
    """
    logs = {name: _log_loss(each, stored_values(model.get_submodule(name)).detach()) for name, each in costs.items()}
    known = sorted(value for name, value in logs.items() if name in reached and value is not None)
    for name, value in logs.items():
        if known and name not in reached:
            costs[name] *= 0.0 if value is None else 2 ** (known[len(known) // 2] - value)


def _log_loss(costs: Tensor, values: Tensor) -> float | None:
    """Return log2 of what it costs to lose a value, as a mean over the terms; None if no value costs anything."""
    losses = costs * values.square().flatten(0, 1).mean(0, dtype=torch.float64).cpu()
    losses = losses[losses > 0]
    return float(losses.log2().mean()) if len(losses) else None


def _warn_of_idle(model: nn.Module, names: list[str], images: Tensor) -> None:
    """Warn of layers that nothing measures: they may be heads that only training uses, or experts behind a gate."""
    used = weights_in_use(model, names, images[:2])
    for name in names:
        if name not in used:
            logger.warning(
                "the layer %s runs on none of the calibration images, so that a target rounds its values to whole "
                "numbers, mostly zeros; if other images need it, calibrate on more of them",
                name,
            )


class _Inputs:
    """Sums over the inputs of each layer at its first run in a pass, and of further runs on parts of the images.

    Sums are float32: they are large, and their errors are far below the damping of a Hessian.

    Args:
        model: The network.
        seeds: Layer name -> seed of its sampled positions. Other layers have no Hessian; they get the mean square of
            their inputs.
        shard: Calibration shard of this rank.
        sampling: Sizes of samples.
    """

    def __init__(
        self, model: nn.Module, seeds: Mapping[str, int], shard: CalibrationShard, sampling: SamplingConfig
    ) -> None:
        self._model, self._seeds, self._shard, self._sampling = model, seeds, shard, sampling
        self._part = shard
        self._seen = 0
        self._passed: Counter[str] = Counter()
        self._grams: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}

    def reached(self) -> list[str]:
        """Return the layers that ran on any rank, in the order of their first runs."""
        return on_any_rank(stored_layers(self._model), list(self._counts), self._shard)

    def recorded(self, names: list[str]) -> ExitStack:
        """Add the hooks until the end of a block."""
        hooks, modules = ExitStack(), dict(self._model.named_modules())
        hooks.callback(self._model.register_forward_pre_hook(self._on_pass).remove)
        for name in names:
            hooks.callback(modules[name].register_forward_pre_hook(partial(self._on_input, name)).remove)
        return hooks

    def terms(self, name: str) -> tuple[int, ...]:
        """Return the shape of a layer's steps."""
        return tuple(stored_values(self._model.get_submodule(name)).shape[2:])

    def costs(self, name: str, gradients: GradientMoments, *, absorbs: bool) -> Tensor:
        """Return the cost of a unit error of one value of each term, and release the sums of the layer.

        With a Hessian, the later columns compensate for a part of the error. The cost is then the Fisher information
        times the freedom divided by the diagonal of the Hessian. If no gradient reaches the stored values, as through
        ``weight.sign()``, the information of the outputs is used in place of theirs.

        Args:
            name: A layer of ``reached``.
            gradients: Of its stored values.
            absorbs: True if a bias or a mean absorbs a constant of the outputs.

        Returns:
            float64, the shape of the layer's steps.
        """
        terms, reduce = self.terms(name), self._shard.reduce
        if name not in self._counts:
            self._begin(name)
        count = float(reduce(torch.tensor(self._counts[name], dtype=torch.float64)))
        second, known = reduce(self._grams.pop(name).to(torch.float64)).div_(count), bool(gradients.squares.any())
        if name not in self._seeds:
            by_outputs = (gradients.outputs * second).cpu().expand(terms)
            return _mean_by_term(gradients.squares, terms) if known else by_outputs
        mean = reduce(self._sums.pop(name)).div_(count)
        absorbs = absorbs and count > 1  # the constant would replace all values of a layer with a single row
        layer = self._model.get_submodule(name)
        order = feature_order(geometry(layer), layer_operator(layer))
        mean, second = reordered(mean, order, 1), reordered(second, order, 1, 2)
        hessian = hessian_of(second, mean if absorbs else None)
        del second  # a large layer has 170 MB in each matrix
        freedoms = measure_freedoms(hessian, terms)
        if not known:
            return gradients.outputs.cpu() * freedoms
        diagonal = hessian.diagonal(dim1=1, dim2=2)
        diagonal = _mean_by_term(diagonal + DAMPING * diagonal.mean(1, keepdim=True), terms)
        fisher = _mean_by_term(gradients.centred(mean) if absorbs else gradients.squares, terms)
        return torch.where(diagonal > 0, fisher * freedoms / diagonal, 0.0)

    def _on_pass(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._part = replace(self._shard, first=self._shard.first + self._seen, count=len(inputs[0]))
        self._seen += len(inputs[0])
        self._passed.clear()

    @torch.no_grad()
    def _on_input(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        passed = self._passed[name]
        if inputs and inputs[0].numel() and (not passed or passed + len(inputs[0]) <= self._part.count):
            self._passed[name] += len(inputs[0])
            if name not in self._counts:
                self._begin(name)
            with without_autocast(inputs[0].device):
                add = self._add if name in self._seeds else self._add_squares
                add(name, module, inputs[0].detach().float())

    def _begin(self, name: str) -> None:
        """Set the sums of a layer to zero."""
        layer = self._model.get_submodule(name)
        values = stored_values(layer).detach()
        self._counts[name] = 0.0
        self._grams[name] = values.new_zeros((), dtype=torch.float64)
        if name in self._seeds:
            groups, features = geometry(layer).groups, values[0].numel()
            self._grams[name] = values.new_zeros(groups, features, features, dtype=torch.float32)
            self._sums[name] = values.new_zeros(groups, features, dtype=torch.float64)

    def _add(self, name: str, module: nn.Module, x: Tensor) -> None:
        conv, maps = geometry(module), as_maps(module, x)
        chosen = samples(conv, maps, seed=self._seeds[name], shard=self._part, sampling=self._sampling)
        for rows in patch_batches(conv, maps, chosen, layer_operator(module)):
            self._grams[name] += self_products(rows)
            self._sums[name] += rows.sum(1)
            self._counts[name] += rows.shape[1]

    def _add_squares(self, name: str, module: nn.Module, x: Tensor) -> None:
        self._grams[name] += x.square().sum(dtype=torch.float64)
        self._counts[name] += x.numel()


def _mean_by_term(columns: Tensor, terms: tuple[int, ...]) -> Tensor:
    """Return the means of columns, (groups, F), over the groups and slices of each term, on the CPU."""
    return (columns.unflatten(1, (-1, *terms)).mean((0, 1)) if terms else columns.mean()).cpu()
