"""Measure what the rounding to every target needs of a network: once for all targets, when it is first needed."""

from functools import cached_property
from typing import Any, Final

from torch import Tensor, nn

from pipeline.options.grid import Variant
from pipeline.runtime.device import placed
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, calibration_images, calibration_inputs, calibration_shard
from pipeline.stages.target_sizes import series_network
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey
from quant.rate import LayerMeasurement
from quant.rate_rounding import OriginalPass, measure_layers

MEASURED_IMAGES: Final = 1024
"""Calibration images from which the freedoms of all layers are measured; rounding itself uses all of them."""


class TargetMeasurement:
    """The network to round, the original's outputs, and the measurements of the layers.

    Args:
        context: The run.
        baseline: The uncompressed network.
        variant: The basis and the largest orders.

    Attributes:
        inputs: The part of a cache key that identifies the network and the calibration images.
        stage: The stage that measures the layers.
    """

    def __init__(self, context: RunContext, baseline: Baseline, variant: Variant) -> None:
        self._context, self._baseline, self._variant = context, baseline, variant
        self.inputs: dict[str, Any] = {
            "network": baseline.digest,
            "config": variant.config.text,
            "basis": variant.bases[0],
            "calibration": calibration_inputs(context),
        }
        self.stage = StageKey(f"{variant.name}: measurement", context.store.key("measurement", **self.inputs))

    @cached_property
    def model(self) -> nn.Module:
        """The network with series convolutions of the largest orders, on the device."""
        return placed(series_network(self._baseline.model, self._variant), self._context.device).eval()

    @cached_property
    def original_pass(self) -> OriginalPass:
        """The original's outputs for all calibration images of this rank."""
        return self._record_original(calibration_images(self._context))

    @property
    def _measured_pass(self) -> OriginalPass:
        """The pass of the images that are measured: all of them if they are few or shared by several ranks."""
        images = calibration_images(self._context)
        if calibration_shard(self._context) is not None or len(images) <= MEASURED_IMAGES:
            return self.original_pass
        return self._record_original(images[:MEASURED_IMAGES])

    def _record_original(self, images: Tensor) -> OriginalPass:
        seed, shard = self._context.options.seed, calibration_shard(self._context)
        return OriginalPass.record(self.model, self._baseline.model, images, seed=seed, shard=shard)

    @cached_property
    def layers(self) -> dict[str, LayerMeasurement]:
        """Layer name -> measurement, computed or read from the store."""

        def compute() -> Entry:
            found = measure_layers(self.model, self._measured_pass, seed=self._context.options.seed)
            freedoms = {name: each.freedoms for name, each in found.items()}
            return Entry(freedoms, {"sensitivities": {name: each.sensitivity for name, each in found.items()}})

        entry, _ = self._context.store.once(self.stage, compute)
        sensitivities: dict[str, float] = entry.metadata["sensitivities"]
        return {name: LayerMeasurement(each, entry.tensors[name].cpu()) for name, each in sensitivities.items()}
