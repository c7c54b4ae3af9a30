"""Compress a network to a target: the size of its file, or the loss of Top-1 on held-out training images."""

import copy
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Final

from torch import nn

from basis.progress import Advance, reported_to
from pipeline.artifact import file_size
from pipeline.artifact.batchnorm import NORMALIZATION_ERROR
from pipeline.artifact.record import NetworkRecord, build_network, record_network
from pipeline.data.dataset import Split
from pipeline.options.grid import Target, Variant
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, network_identity
from pipeline.stages.evaluate import evaluate_together
from pipeline.stages.quantize import QuantizedNetwork, measured_entry, quantized_network
from pipeline.stages.target_measurement import TargetMeasurement
from pipeline.stages.target_sizes import feasible_sizes, zero_record
from pipeline.stages.train import TrainingJob, TrainingSummary, replay_curve, train_once, training_job
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey
from pipeline.training.schedule import Schedule
from pipeline.training.selection import hold_out
from pipeline.training.state import TrainingLabel
from quant.rate import entropy_bits
from quant.rate_rounding import RoundedNetwork, round_network
from quant.schemes import StoredTensor
from quant.stepped import SteppedTensor
from quant.stepped_training import RateControl, attach_stepped_quantizers, stepped_layers

logger = logging.getLogger(__name__)

TARGET_LR: Final = 0.03
"""Peak learning rate of training through the rounding; docs/training.md has the measurements."""
AIM: Final = 0.995
"""Aimed size of a file as a share of its target; sizes from 97 % to 100 % are accepted."""
COARSE_BITS: Final = 3.0
"""Bits per value of a file below which batch normalizations may be coarse: the integers' error is far larger."""
COARSE_NORMALIZATION: Final = 2.0**-6
"""Largest error of a coarse batch normalization; see ``pipeline.artifact.batchnorm.NORMALIZATION_ERROR``."""
PASSES: Final = 5
"""Most passes that correct the size of a file."""
THRESHOLDS: Final = (0.35, 0.65)
"""Range of the rounding threshold that trims a trained network to its size; 0.5 rounds to the nearest."""
TRIMS: Final = 8
"""Bisections of the threshold."""
MAX_LOSS: Final = 1.0
"""Points of Top-1 on held-out training images that training through the rounding may lose; more rolls it back."""
LOSS_SHARE: Final = 5
"""One of this many training images is held out to limit the loss of Top-1, which needs many images."""
LOSS_IMAGES: Final = 5000
"""Most of these images."""
SIZE_STEPS: Final = 6
"""Bisections of the size for a loss of Top-1."""
TRAINED_SHARES: Final = (0.8, 0.65)
"""Sizes at which training is tried for a loss of Top-1, as shares of the smallest size without training."""


@dataclass(frozen=True)
class Compressed:
    """A compressed network.

    Attributes:
        record: Its tensors.
        size: Size of its file in bytes.
        errors: Layer name -> relative output error of the rounding.
        training: Training through the rounding.
    """

    record: NetworkRecord
    size: int
    errors: dict[str, float]
    training: TrainingSummary = field(default_factory=TrainingSummary)


def target_stages(context: RunContext, baseline: Baseline, variant: Variant, target: Target) -> Iterator[StageKey]:
    """Yield the stages of a target in order, for the plan of a run; trainings of a search for a loss are not known."""
    compressor = TargetCompressor(context, baseline, variant)
    yield TargetMeasurement(context, baseline, variant).stage
    if variant.epochs and target.bytes is not None:
        yield compressor.training(target.bytes).stage
    yield compressor.compression(target)


class TargetCompressor:
    """Compresses one network to several targets.

    The original's outputs and the measurements are made once for all targets, when they are first needed.

    Args:
        context: The run.
        baseline: The uncompressed network.
        variant: The basis, the largest orders and the epochs.
    """

    def __init__(self, context: RunContext, baseline: Baseline, variant: Variant) -> None:
        self._context, self._baseline, self._variant = context, baseline, variant
        self._identity = network_identity(context)
        self._measured = TargetMeasurement(context, baseline, variant)

    def compression(self, target: Target) -> StageKey:
        """Return the stage that makes the files of a target."""
        inputs = {
            **self._measured.inputs,
            "target": asdict(target),
            "epochs": self._variant.epochs,
            "schedule": asdict(self._schedule),
            "teacher": self._baseline.teacher is not None,
            "identity": asdict(self._identity),
            "test": self._context.data.test.digest,
        }
        name = f"{self._variant.name}, {target.label}: compression"
        return StageKey(name, self._context.store.key("target", **inputs))

    def training(self, size: int) -> TrainingJob:
        """Return the training through the rounding for a file of so many bytes."""
        name = f"{self._variant.name}, {size / 1e6:.6g}mb"
        start = self._context.store.key(
            "target rounding", size=size, identity=asdict(self._identity), **self._measured.inputs
        )
        label = TrainingLabel(name, "rounding")
        teacher = self._baseline.teacher
        return training_job(
            self._context, f"{name}: training through the rounding", label, start, self._schedule, teacher=teacher
        )

    def compress(self, target: Target) -> QuantizedNetwork:
        """Compress the network to a target, or read the result from the store.

        A target that cannot be met gives the nearest network, with ``target_met`` False.

        Args:
            target: One of the variant's targets.

        Raises:
            NumericalError: A rounding or a training has values that are not finite.
        """
        entry, cached = self._context.store.once(self.compression(target), lambda: self._compress(target))
        if cached and self._variant.epochs and target.bytes is not None:
            replay_curve(self._context, self.training(target.bytes))
        return quantized_network(entry)

    def _compress(self, target: Target) -> Entry:
        if target.bytes is None:
            found, met = self._smallest_file(float(target.drop or 0))
        else:
            found = self._file_of(target.bytes)
            met = target.fits(found.size)
        return measured_entry(self._context, self._baseline, found.record, found.errors, found.training, target_met=met)

    def _file_of(self, size: int) -> Compressed:
        """Compress to a size, with the epochs of the variant."""
        rounded, plain = self._rounded(size)
        return self._trained(rounded, plain, size) if self._variant.epochs else plain

    def _rounded(self, size: int, passes: int = PASSES) -> tuple[RoundedNetwork, Compressed]:
        """Round to a size without training; repeat with corrected bits until the file fits, or the passes end."""
        target, bits = Target(megabytes=size / 1e6), 8 * max(AIM * size - self._other_bytes, 1.0)
        best: tuple[RoundedNetwork, Compressed] | None = None
        before: tuple[float, int] | None = None
        for _ in range(passes):
            with self._context.progress.track(f"{self._variant.name}: rounding", len(self._measured.layers)) as advance:
                rounded = self._round(bits, advance)
            record = self._record(rounded.model, dict(rounded.layers), size)
            found = Compressed(record, self._size(record), rounded.errors)
            if best is None or _misses(found.size, size) < _misses(best[1].size, size):
                best = rounded, found
            if target.fits(found.size):
                break
            slope = 1 / 8  # bytes for each bit; later passes know it from the last two sizes
            if before is not None and bits != before[0]:
                slope = min(max((found.size - before[1]) / (bits - before[0]), slope / 4), 2 * slope)
            before = bits, found.size
            bits = max(bits + (AIM * size - found.size) / slope, 1.0)
        assert best is not None
        return best

    def _round(self, bits: float, advance: Advance) -> RoundedNetwork:
        with reported_to(advance):
            return round_network(self._measured.model, self._measured.original_pass, self._measured.layers, bits)

    def _trained(self, rounded: RoundedNetwork, plain: Compressed, size: int) -> Compressed:
        """Train a rounded network through the rounding, and trim it to its size."""
        bits = sum(entropy_bits(tensor) for tensor in rounded.layers.values())
        model = attach_stepped_quantizers(copy.deepcopy(self._measured.model), rounded.log_steps)
        reference = self._network(plain)
        control, job = RateControl(model, bits), self.training(size)
        summary = train_once(self._context, model, job, rate=control)
        found = self._trimmed(model, rounded.layers, size)
        if not Target(megabytes=size / 1e6).fits(found.size):
            logger.warning(
                "%s: training left a file of %d bytes, which cannot be trimmed to %d; the network without training is "
                "used",
                self._variant.name,
                found.size,
                size,
            )
            return replace(plain, training=summary.rolled_back())
        before, after = (self._top1(each, self._context.images.held_out) for each in (reference, self._network(found)))
        if before - after > MAX_LOSS:
            logger.warning("%s: training lost Top-1 on held-out training images and is undone", self._variant.name)
            return replace(plain, training=summary.rolled_back())
        return replace(found, errors=plain.errors, training=summary)

    def _network(self, found: Compressed) -> nn.Module:
        return build_network(found.record, copy.deepcopy(self._baseline.model))

    def _trimmed(self, model: nn.Module, others: Mapping[str, SteppedTensor], size: int) -> Compressed:
        """Round a trained network with the threshold, near 0.5, at which its file has the aimed size."""
        low, high = THRESHOLDS
        best: Compressed | None = None
        for _ in range(TRIMS):
            threshold = (low + high) / 2
            record = self._record(model, {**others, **stepped_layers(model, threshold)}, size)
            found = Compressed(record, self._size(record), {})
            if best is None or _misses(found.size, size) < _misses(best.size, size):
                best = found
            low, high = (threshold, high) if found.size > AIM * size else (low, threshold)
        assert best is not None
        return best

    def _smallest_file(self, drop: float) -> tuple[Compressed, bool]:
        """Search the smallest file that loses at most so many points of Top-1 on held-out training images.

        The images are not used in any other way. Sizes are bisected without training; with epochs, smaller files are
        then trained.

        Returns:
            The network, and True if it keeps to the loss. If none does, it is the one of the largest size.
        """
        train, held_out = hold_out(self._context.data.train, LOSS_SHARE, LOSS_IMAGES)
        data = replace(self._context.data, train=train)
        count = min(self._context.calibration_count, len(train))
        context = replace(self._context, data=data, calibration_count=count)
        inner = TargetCompressor(context, self._baseline, self._variant)
        allowed = self._top1(self._baseline.model, held_out) - drop

        def keeps(found: Compressed) -> bool:
            return self._top1(self._network(found), held_out) >= allowed

        smallest, largest = inner.feasible_sizes
        _, best = inner._rounded(largest, passes=1)
        if not keeps(best):
            return best, False
        low, high = float(smallest), float(largest)
        for _ in range(SIZE_STEPS):
            size = round((low * high) ** 0.5)
            _, found = inner._rounded(size, passes=1)  # only the loss has to keep to a limit
            low, high, best = (low, size, found) if keeps(found) else (size, high, best)
        for share in TRAINED_SHARES if self._variant.epochs else ():
            found = inner._file_of(max(round(share * high), smallest))
            if not keeps(found):
                break
            best = found
        return best, True

    def _top1(self, model: nn.Module, images: Split) -> float:
        return evaluate_together(model, images, self._context.processes).top1

    def _record(self, model: nn.Module, layers: dict[str, StoredTensor], size: int) -> NetworkRecord:
        values = sum(tensor.integers.numel() for tensor in layers.values())
        coarse = 8 * size < COARSE_BITS * values
        error = COARSE_NORMALIZATION if coarse else NORMALIZATION_ERROR
        return record_network(model, layers, normalization_error=error)

    def _size(self, record: NetworkRecord) -> int:
        return file_size(record, self._identity)

    @property
    def feasible_sizes(self) -> tuple[int, int]:
        """Sizes of the smallest and the largest file that a target may have, in bytes."""
        return feasible_sizes(self._context, self._baseline.model, self._variant)

    @property
    def _schedule(self) -> Schedule:
        options = self._context.options
        return Schedule(self._variant.epochs, options.lr or TARGET_LR, options.batch_size)

    @cached_property
    def _other_bytes(self) -> int:
        """Bytes of a file whose integers are all zero, with coarse batch normalizations."""
        return self._size(zero_record(self._measured.model, COARSE_NORMALIZATION))


def _misses(found: int, size: int) -> tuple[bool, float]:
    """Return how far a file is from a target size, for comparison: files above the target are behind all others."""
    return found > size, abs(found - AIM * size)
