"""Search the rounding whose file has a target size; knows no options and no store."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from typing import Final, Protocol

from torch import nn

from basis.copying import copy_network
from basis.layers import stored_layers, stored_values
from basis.progress import Advance, reported_to
from pipeline.artifact import Identity, file_size
from pipeline.artifact.batchnorm import normalization_error
from pipeline.artifact.groups import block_of
from pipeline.artifact.record import NetworkRecord, record_network
from pipeline.options.grid import Target
from pipeline.runtime.progress import Progress
from pipeline.stages.targets.sizes import zero_record
from pipeline.stages.train import TrainingSummary
from quant import entropy
from quant.original_pass import OriginalPass
from quant.rate import LayerMeasurement, RatePlan, entropy_bits
from quant.rate_rounding import RoundedNetwork, round_network
from quant.schemes import StoredTensor
from quant.stepped import SteppedTensor
from quant.stepped_training import UNDECIDED, RateControl, attach_stepped_quantizers, stepped_layers

logger = logging.getLogger(__name__)

AIM: Final = 0.995
"""Aimed size of a file as a share of its target; sizes from 97 % to 100 % are accepted."""
TRAINED_AIM: Final = 0.99
"""The same at the end of training through the rounding, which meets a size less exactly."""
START_AIM: Final = 0.975
"""The same at its start: training moves values towards larger integers."""
COMPENSATED_SHARE: Final = 1.007
"""Coded bits of integers that were rounded with compensation, as a share of those predicted from nearest rounding.

1.005 to 1.009 in 18 roundings of ResNet-20, 0.02 to 0.08 MB, so that its first pass meets the size.
"""
PASSES: Final = 8
"""Most passes that correct the size of a file."""
THRESHOLDS: Final = (-8.0, 8.0)
"""Range of the threshold of the logits that trims a trained network to its size; larger ones give fewer bits."""
FAR: Final = 4.0
"""Ratio of the bits of two passes above which their logarithms are interpolated."""
FLAT: Final = 1.25
"""Ratio of the bits of passes of one size above which more passes are useless."""
TRIMS: Final = 8
"""Bisections of the threshold."""


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


class Measured(Protocol):
    """A network to round, and all that its rounding needs; each part may be computed when it is first read."""

    @property
    def model(self) -> nn.Module:
        """The network with series convolutions of the largest orders, on the device."""

    @property
    def original_pass(self) -> OriginalPass:
        """The original's outputs for the calibration images."""

    @property
    def layers(self) -> dict[str, LayerMeasurement]:
        """Layer name -> measurement."""


class SizeSearch:
    """Rounds a network to file sizes, and trims trained networks to file sizes.

    Args:
        measured: The network and its measurements.
        identity: Its description in the file.
        name: Its name in messages.
        progress: Shows the layers of a rounding.
    """

    def __init__(self, measured: Measured, identity: Identity, name: str, progress: Progress) -> None:
        self._measured, self._identity, self._name, self._progress = measured, identity, name, progress

    def rounded(
        self, size: int, passes: int = PASSES, *, for_training: bool = False
    ) -> tuple[RoundedNetwork, Compressed]:
        """Round to a size without training; repeat with corrected bits until the file fits, or the passes end.

        Args:
            size: Target size of the file, in bytes.
            passes: Most passes.
            for_training: True for a network that is trained next, whose file then grows.

        Returns:
            The pass whose file is nearest to the aimed size, as a network and as a record.

        Raises:
            NumericalError: A Hessian is not positive semi-definite, or values are not finite.
        """
        aim = START_AIM if for_training else AIM
        target, bits = Target(megabytes=size / 1e6), 8 * max(aim * size - self._other_bytes(size), 1.0)
        bits /= COMPENSATED_SHARE * self._coded_share(bits)
        best: tuple[RoundedNetwork, Compressed] | None = None
        tried: list[tuple[float, int]] = []
        for _ in range(passes):
            with self._progress.track(f"{self._name}: rounding", len(self._measured.layers)) as advance:
                rounded = self._round(bits, size, advance)
            record = self._record(rounded.model, dict(rounded.layers), size)
            found = Compressed(record, self._size(record), rounded.errors)
            if best is None or _misses(found.size, size, aim) < _misses(best[1].size, size, aim):
                best = rounded, found
            tried.append((bits, found.size))
            if target.fits(found.size) or (following := _next_bits(tried, aim * size)) is None:
                break
            bits = following
        assert best is not None
        return best

    def _round(self, bits: float, size: int, advance: Advance) -> RoundedNetwork:
        model, original = self._measured.model, self._measured.original_pass
        with reported_to(advance):
            error = normalization_error(self._bits_per_value(size))
            return round_network(model, original, self._plan, bits, shift_error=error)

    def _coded_share(self, bits: float) -> float:
        """Return the coded bits of all layers as a share of their entropy by term, near a number of bits.

        Classes of the entropy coder take less than the entropy, and its tables more.
        """
        layers = self._plan.nearest(bits)
        _, blocks = entropy.coded_sizes([], [block_of(layer.integers.cpu()) for layer in layers.values()])
        scales = [self._plan.scale(name) for name in layers]
        coded = sum(scale * (sum(block.terms) + block.offsets) for scale, block in zip(scales, blocks, strict=True))
        expected = sum(scale * entropy_bits(layer) for scale, layer in zip(scales, layers.values(), strict=True))
        return coded / expected if expected > 0 else 1.0

    def trained(
        self,
        rounded: RoundedNetwork,
        plain: Compressed,
        size: int,
        train: Callable[[nn.Module, RateControl], TrainingSummary],
        score: Callable[[NetworkRecord], float],
        most_loss: float,
    ) -> Compressed:
        """Train a rounded network through the rounding, and trim it to its size.

        Args:
            rounded: The network without training.
            plain: The same network as a record. It is the result if training does harm.
            size: Target size of the file, in bytes.
            train: Trains a network with fake quantizers in place, at the bits of the control.
            score: Scores a network on training images; higher is better.
            most_loss: Largest loss of the score that is accepted.
        """
        layers = stored_layers(self._measured.model)
        before = {name: stored_values(layers[name]) for name in rounded.used}
        uncompressed = {name: values.detach() for name, values in before.items() if values.requires_grad}
        model = attach_stepped_quantizers(copy_network(rounded.model), rounded.layers, uncompressed)

        def wanted(bits: float) -> float:
            # From the file as it would be now, because training also changes the bytes of the normalizations.
            found = self.rounded_at(UNDECIDED, model, rounded.layers, size)
            return max(bits + 8 * (TRAINED_AIM * size - found.size), 1.0)

        control = RateControl(model, wanted)
        summary = train(model, control)
        control.end()
        if summary.undone:
            return replace(plain, training=summary)
        found = self.trimmed(model, rounded.layers, size)
        fault = None
        if not Target(megabytes=size / 1e6).fits(found.size):
            fault = f"left a file of {found.size:,} bytes, which no threshold of the rounding brings to {size:,}"
        elif score(plain.record) - score(found.record) > most_loss:
            fault = "lost more on held-out training images than is allowed"
        if fault is not None:
            logger.warning("%s: training %s; the network without training is used", self._name, fault)
            return replace(plain, training=summary.rolled_back(fault))
        return replace(found, errors=plain.errors, training=summary)

    def trimmed(self, model: nn.Module, others: Mapping[str, SteppedTensor], size: int) -> Compressed:
        """Round a trained network to a file of a size.

        If the file misses its size at the threshold ``UNDECIDED``, the nearest threshold that meets it is searched.
        Only the values of which the training was least certain are then rounded differently.

        Args:
            model: The network, with fake quantizers of ``attach_stepped_quantizers``.
            others: Layer name -> stored values of the layers without a fake quantizer.
            size: Target size of the file, in bytes.
        """
        target, best = Target(megabytes=size / 1e6), self.rounded_at(UNDECIDED, model, others, size)
        too_large = best.size > size
        near, far = UNDECIDED, THRESHOLDS[too_large]
        for _ in range(0 if target.fits(best.size) else TRIMS):
            threshold = (near + far) / 2
            found = self.rounded_at(threshold, model, others, size)
            if target.fits(found.size):
                best, far = found, threshold
                continue
            if not target.fits(best.size) and _misses(found.size, size, AIM) < _misses(best.size, size, AIM):
                best = found
            near, far = (threshold, far) if (found.size > size) == too_large else (near, threshold)
        return best

    def rounded_at(
        self, threshold: float, model: nn.Module, others: Mapping[str, SteppedTensor], size: int
    ) -> Compressed:
        """Round a trained network with a threshold; arguments as in ``trimmed``."""
        record = self._record(model, {**others, **stepped_layers(model, threshold)}, size)
        return Compressed(record, self._size(record), {})

    def _record(self, model: nn.Module, layers: dict[str, StoredTensor], size: int) -> NetworkRecord:
        return record_network(model, layers, bits_per_value=self._bits_per_value(size))

    def _size(self, record: NetworkRecord) -> int:
        return file_size(record, self._identity)

    @cached_property
    def _plan(self) -> RatePlan:
        return RatePlan.of(self._measured.model, self._measured.layers)

    def _other_bytes(self, size: int) -> int:
        """Return the bytes of a file for a size whose integers are all zero."""
        return self._size(zero_record(self._measured.model, self._bits_per_value(size)))

    def _bits_per_value(self, size: int) -> float:
        """Return the bits of a file of so many bytes, divided by its integers."""
        return 8 * size / self._values

    @cached_property
    def _values(self) -> int:
        """The number of integers of a file; 1 for a network without layers."""
        record = zero_record(self._measured.model, 1.0)
        return max(1, sum(layer.values.integers.numel() for layer in record.layers))


def _next_bits(tried: list[tuple[float, int]], wanted: float) -> float | None:
    """Return the bits of the next pass: between those of two files around the wanted size, if there are such files.

    Those of two files are interpolated, far ones by their logarithms: near zero bits, the tables take most of a file.
    Without such files, the last two passes give the slope. While the size stays the same, the changes become larger,
    because the steps of a few layers are far apart on their grid. None if the last three passes have one size for very
    different bits, or equal ones: other bits change nothing.

    Args:
        tried: Bits and size of the file, in bytes, of each pass so far; at least one.
        wanted: Wanted size of the file, in bytes.
    """
    below = max((each for each in tried if each[1] <= wanted), default=None)
    above = min((each for each in tried if each[1] > wanted), default=None)
    if below is not None and above is not None:
        share = (wanted - below[1]) / (above[1] - below[1])
        if above[0] > FAR * below[0]:
            return math.exp((1 - share) * math.log(below[0]) + share * math.log(above[0]))
        return below[0] + (above[0] - below[0]) * share
    bits, size = tried[-1]
    same = [each for each, _ in takewhile(lambda each: each[1] == size, reversed(tried))]
    if len(same) > 2 and (bits == same[1] or max(same) > FLAT * min(same)):
        return None
    slope = 1 / 8  # bytes for each bit; later passes know it from the last two sizes
    if len(tried) > 1 and bits != tried[-2][0]:
        slope = min(max((size - tried[-2][1]) / (bits - tried[-2][0]), slope / 4 ** max(1, len(same) - 1)), 2 * slope)
    return max(bits + (wanted - size) / slope, 1.0)


def _misses(found: int, size: int, aim: float) -> tuple[bool, float]:
    """Return a key that sorts files by their distance from a share of a size; files above the size come last."""
    return found > size, abs(found - aim * size)
