"""Compress a network to a target: the size of its file, or the loss of Top-1 on held-out training images."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Final

from torch import nn

from basis.copying import copy_network
from pipeline.artifact.record import NetworkRecord, build_network
from pipeline.data.dataset import Split
from pipeline.options.grid import Target, Variant
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, network_identity
from pipeline.stages.evaluate import evaluate_together
from pipeline.stages.quantize import QuantizedNetwork, measured_entry, quantized_network
from pipeline.stages.targets.measurement import TargetMeasurement
from pipeline.stages.targets.search import Compressed, SizeSearch
from pipeline.stages.targets.sizes import feasible_sizes
from pipeline.stages.train import TrainingJob, TrainingSummary, replay_curve, train_once, training_job
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey
from pipeline.training.schedule import Schedule, suited_schedule
from pipeline.training.selection import hold_out
from pipeline.training.state import TrainingLabel
from quant.rate_rounding import RoundedNetwork
from quant.stepped_training import RateControl
from reports.gate import SMALLEST_SHARE, keeps_to

TARGET_LR: Final = 0.003
"""Peak learning rate of normalizations and biases while the rounding is trained; docs/training.md has measurements.

Logits have ``SteppedFakeQuantizer.learning_rate_share`` times this rate.
"""
MAX_LOSS: Final = 1.0
"""Points of Top-1 on held-out training images that training through the rounding may lose; more rolls it back."""
LOSS_SHARE: Final = 5
"""One of this many training images is held out to limit the loss of Top-1. Fewer would not resolve a small loss."""
LOSS_IMAGES: Final = 5000
"""Most images that are held out for this purpose."""
SIZE_STEPS: Final = 6
"""Bisections of the size for a loss of Top-1."""
TRAINED_SHARES: Final = (0.8, 0.65)
"""Sizes at which training is tried for a loss of Top-1, as shares of the smallest size without training."""


def target_stages(context: RunContext, baseline: Baseline, variant: Variant, target: Target) -> Iterator[StageKey]:
    """Yield the stages of a target in order, for the plan of a run; trainings of a search for a loss are not known."""
    compressor = TargetCompressor(context, baseline, variant)
    measuring = compressor if target.bytes is not None else compressor.for_loss(target)[0]
    yield measuring.measurement
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
        name: The name of the network in messages; that of the variant by default.
    """

    def __init__(self, context: RunContext, baseline: Baseline, variant: Variant, name: str | None = None) -> None:
        self._context, self._baseline, self._variant = context, baseline, variant
        self._identity, self._name = network_identity(context), name or variant.name
        self._measured = TargetMeasurement(context, baseline, variant, self._name)
        self._search = SizeSearch(self._measured, self._identity, self._name, context.progress)

    @property
    def measurement(self) -> StageKey:
        """The stage that measures the layers for all targets of this compressor."""
        return self._measured.stage

    def for_loss(self, target: Target) -> tuple["TargetCompressor", Split]:
        """Hold out training images that limit the loss; return a compressor without them, and these images."""
        train, held_out = hold_out(self._context.data.train, LOSS_SHARE, LOSS_IMAGES)
        data = replace(self._context.data, train=train)
        count = min(self._context.calibration_count, len(train))
        context = replace(self._context, data=data, calibration_count=count)
        name = f"{self._variant.name}, {target.label}"
        return TargetCompressor(context, self._baseline, self._variant, name), held_out

    def compression(self, target: Target) -> StageKey:
        """Return the stage that makes the files of a target."""
        inputs = {
            **self._measured.inputs,
            "target": asdict(target),
            "smallest share": SMALLEST_SHARE,
            "epochs": self._variant.epochs,
            "schedule": asdict(self._schedule),
            "teacher": None if self._baseline.teacher is None else self._baseline.teacher.mirrored,
            "mirrored": self._baseline.mirrored,
            "identity": asdict(self._identity),
            "test": self._context.data.test.digest,
            "onnx": self._context.options.onnx,
        }
        name = f"{self._variant.name}, {target.label}: compression"
        return StageKey(name, self._context.store.key("target", **inputs))

    def training(self, size: int) -> TrainingJob:
        """Return the training through the rounding for a file of so many bytes."""
        name = f"{self._name}, {Target(megabytes=size / 1e6).label}"
        inputs = {"size": size, "smallest share": SMALLEST_SHARE, "identity": asdict(self._identity)}
        start = self._context.store.key("target rounding", **inputs, **self._measured.inputs)
        label = TrainingLabel(name, "rounding")
        return training_job(
            self._context,
            f"{name}: training through the rounding",
            label,
            start,
            self._schedule,
            teacher=self._baseline.teacher,
            mirrored=self._baseline.mirrored,
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
            found, met = self._smallest_file(target)
        else:
            found = self._file_of(target.bytes)
            met = target.fits(found.size)
        return measured_entry(self._context, self._baseline, found.record, found.errors, found.training, target_met=met)

    def _file_of(self, size: int) -> Compressed:
        """Compress to a size, with the epochs of the variant."""
        if not self._variant.epochs:
            return self._search.rounded(size)[1]
        return self._trained(*self._search.rounded(size, for_training=True), size)

    def _trained(self, rounded: RoundedNetwork, plain: Compressed, size: int) -> Compressed:
        """Train a rounded network through the rounding, and trim it to its size."""

        def train(model: nn.Module, control: RateControl) -> TrainingSummary:
            return train_once(self._context, model, self.training(size), rate=control)

        def score(record: NetworkRecord) -> float:
            return self._top1(self._network(record), self._context.images.held_out)

        return self._search.trained(rounded, plain, size, train, score, MAX_LOSS)

    def _network(self, record: NetworkRecord) -> nn.Module:
        return build_network(record, copy_network(self._baseline.model))

    def _smallest_file(self, target: Target) -> tuple[Compressed, bool]:
        """Search the smallest file that loses at most so many points of Top-1 on held-out training images.

        The held-out images have no other use. Sizes are bisected without training; with epochs, smaller files are then
        trained.

        Returns:
            The network, and True if its loss is within the limit. If no network is, it is the one of the largest size.
        """
        inner, held_out = self.for_loss(target)
        before, allowed = self._top1(self._baseline.model, held_out), float(target.drop or 0)

        def keeps(found: Compressed) -> bool:
            return keeps_to(before - self._top1(self._network(found.record), held_out), allowed)

        smallest, largest = inner.feasible_sizes
        _, best = inner._search.rounded(largest, passes=1)
        if not keeps(best):
            return best, False
        low, high = float(smallest), float(largest)
        for _ in range(SIZE_STEPS):
            size = round((low * high) ** 0.5)
            _, found = inner._search.rounded(size, passes=1)  # only the loss has to keep to a limit
            low, high, best = (low, size, found) if keeps(found) else (size, high, best)
        for share in TRAINED_SHARES if self._variant.epochs else ():
            found = inner._file_of(max(round(share * high), smallest))
            if not keeps(found):
                break
            best = found
        return best, True

    def _top1(self, model: nn.Module, images: Split) -> float:
        return evaluate_together(model, images, self._context.processes).top1

    @property
    def feasible_sizes(self) -> tuple[int, int]:
        """Sizes of the smallest and the largest file that a target may have, in bytes."""
        return feasible_sizes(self._context, self._baseline.model, self._variant)

    @property
    def _schedule(self) -> Schedule:
        options, images = self._context.options, len(self._context.images.trained)
        return suited_schedule(images, self._variant.epochs, options.batch_size, lr=options.lr, default=TARGET_LR)
