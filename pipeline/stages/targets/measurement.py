"""Measure what the rounding to every target needs of a network: once for all targets, when it is first needed."""

import logging
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import nn

from basis.modes import evaluating
from pipeline.options.grid import Variant
from pipeline.runtime.device import placed
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, calibration_images, calibration_inputs, calibration_shard
from pipeline.stages.targets.sizes import series_network
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey
from quant.coarse_scales import with_coarse_scales
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate import LayerMeasurement
from quant.rate_rounding import ROUNDING_IMAGES

logger = logging.getLogger(__name__)


class TargetMeasurement:
    """The network to round, the original's outputs, and the measurements of the layers.

    Args:
        context: The run.
        baseline: The uncompressed network.
        variant: The basis and the largest orders.
        name: The name of the network in messages.

    Attributes:
        inputs: The part of a cache key that identifies the network and the calibration images.
        stage: The stage that measures the layers.
    """

    def __init__(self, context: RunContext, baseline: Baseline, variant: Variant, name: str) -> None:
        self._given = context.calibration_count
        context = replace(context, calibration_count=min(self._given, ROUNDING_IMAGES))
        self._context, self._baseline, self._variant, self._name = context, baseline, variant, name
        self.inputs: dict[str, Any] = {
            "network": baseline.digest,
            "config": variant.config.text,
            "basis": variant.bases[0],
            "calibration": calibration_inputs(context),
        }
        self.stage = StageKey(f"{name}: measurement", context.store.key("measurement", **self.inputs))

    @property
    def model(self) -> nn.Module:
        """The network with series convolutions of the largest orders and coarse scales, on the device."""
        return self._prepared[0]

    @property
    def original_pass(self) -> OriginalPass:
        """The calibration images of this rank, and the original's outputs."""
        return self._prepared[1]

    @cached_property
    def _prepared(self) -> tuple[nn.Module, OriginalPass]:
        count = self._context.calibration_count
        if count < self._given and self._context.processes.is_main:
            logger.info("%s: %d of %d calibration images are used", self._name, count, self._given)
        images, shard = calibration_images(self._context), calibration_shard(self._context)
        seed = self._context.options.seed
        model = evaluating(placed(series_network(self._baseline.model, self._variant), self._context.device))
        original = OriginalPass.record(model, self._baseline.model, images, seed=seed, shard=shard)
        return with_coarse_scales(model, original), original

    @cached_property
    def layers(self) -> dict[str, LayerMeasurement]:
        """Layer name -> measurement, computed or read from the store."""

        def compute() -> Entry:
            found = measure_layers(self.model, self.original_pass, seed=self._context.options.seed)
            return Entry({name: each.costs for name, each in found.items()}, {"layers": list(found)})

        entry, _ = self._context.store.once(self.stage, compute)
        return {name: LayerMeasurement(entry.tensors[name].cpu()) for name in entry.metadata["layers"]}
