"""Compress a network in memory to the size of its file."""

import logging
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from basis.copying import copy_network
from basis.modes import evaluating
from pipeline.artifact import Identity
from pipeline.artifact.record import NetworkRecord, build_network
from pipeline.compression.training import Trainer
from pipeline.options.grid import Variant
from pipeline.runtime.device import placed
from pipeline.runtime.progress import Progress
from pipeline.stages.targets.search import Compressed, SizeSearch
from pipeline.stages.targets.sizes import series_network
from pipeline.stages.train import TrainingSummary
from quant.coarse_scales import with_coarse_scales
from quant.measurement import measure_layers
from quant.original_pass import OriginalPass
from quant.rate import LayerMeasurement
from quant.rate_rounding import ROUNDING_IMAGES
from quant.stepped_training import RateControl

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Measurement:
    """A network to round and its measurements; see ``pipeline.stages.targets.search.Measured``."""

    series: nn.Module
    original: nn.Module
    images: Tensor
    seed: int
    logits: bool

    @property
    def model(self) -> nn.Module:
        return self._prepared[0]

    @property
    def original_pass(self) -> OriginalPass:
        return self._prepared[1]

    @cached_property
    def _prepared(self) -> tuple[nn.Module, OriginalPass]:
        recorded = OriginalPass.record(self.series, self.original, self.images, seed=self.seed)
        return with_coarse_scales(self.series, recorded), recorded

    @cached_property
    def layers(self) -> dict[str, LayerMeasurement]:
        return measure_layers(self.model, self.original_pass, seed=self.seed, logits=self.logits)


def compress_to_size(
    original: nn.Module,
    images: Tensor,
    variant: Variant,
    identity: Identity,
    *,
    seed: int,
    logits: bool,
    trainer: Trainer | None,
    progress: Progress,
) -> Compressed:
    """Round a network so that its file has a size, and train it through the rounding.

    Args:
        original: The uncompressed network, on the device; it is not changed.
        images: Calibration images, (N, C, H, W), on the device; the first ``ROUNDING_IMAGES`` are used.
        variant: The basis, the largest orders and one target.
        identity: The description of the network in the file.
        seed: Seed of sampled positions and random signs.
        logits: True if the outputs are logits, (N, classes).
        trainer: Trains the network; None for no training.
        progress: Shows the layers of a rounding.

    Returns:
        The compressed network. If no rounding gives a file of the size, it is the nearest.

    Raises:
        NumericalError: A rounding or a training has values that are not finite.
    """
    (target,) = variant.targets
    size = target.bytes
    assert size is not None
    model = evaluating(placed(series_network(original, variant), images.device))
    images = images[:ROUNDING_IMAGES]
    search = SizeSearch(_Measurement(model, original, images, seed, logits), identity, variant.name, progress)
    rounded, found = search.rounded(size, for_training=trainer is not None)
    if trainer is not None:

        def network_of(record: NetworkRecord) -> nn.Module:
            return placed(build_network(record, copy_network(original)), images.device)

        def train(model: nn.Module, control: RateControl) -> TrainingSummary:
            return trainer.train(model, f"{variant.name}: training through the rounding", rate=control)

        found = search.trained(
            rounded, found, size, train, lambda record: trainer.score(network_of(record)), trainer.most_loss
        )
    if not target.fits(found.size):
        words = "%s: the nearest file to the target of %d bytes has %d"
        logger.warning(words, variant.name, size, found.size)
    return found
