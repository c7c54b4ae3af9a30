"""Expand the options into the networks of a run: config x basis x widths, or config x basis x targets."""

from dataclasses import dataclass

from basis.parametric.families import is_parametric
from pipeline.options.dependent import FIT, ROUNDING
from pipeline.options.options import Options
from pipeline.options.orders import ALL, DENSE, Config, parse_config
from reports.gate import has_target_size


@dataclass(frozen=True)
class Target:
    """The target of a row without a fixed width: the size of its file, or the loss of Top-1.

    Attributes:
        megabytes: Largest size of the file, in MB (10^6 bytes); None if the loss is the target.
        drop: Points of Top-1 that may be lost on held-out training images; None if the size is the target.
    """

    megabytes: float | None = None
    drop: float | None = None

    @property
    def label(self) -> str:
        """Return the target in file names and messages: ``0.04mb``, ``drop0.5``."""
        return f"drop{self.drop:.12g}" if self.megabytes is None else f"{self.megabytes:.12g}mb"

    @property
    def bytes(self) -> int | None:
        """Largest size of the file in bytes; None if the loss is the target."""
        return None if self.megabytes is None else round(self.megabytes * 1e6)

    def fits(self, size: int) -> bool:
        """Return True if a file of ``size`` bytes has the target size, or if the loss is the target."""
        return self.megabytes is None or has_target_size(size / 1e6, self.megabytes)


@dataclass(frozen=True)
class Variant:
    """A network that is approximated and fine-tuned once, and quantized to one or more widths or targets.

    Attributes:
        config: Orders per stage, or ``dense``; with targets, the largest orders, or ``auto`` for no limit; ``all`` for
            a parametric family.
        bases: The bases of its rows: one for a series; for the dense network, which has no basis, all of the run.
        bits: Widths of its quantization; empty with targets.
        epochs: Epochs of fine-tuning; with targets, of training through the rounding.
        targets: Targets of its rows; empty with widths.
    """

    config: Config
    bases: tuple[str, ...]
    bits: tuple[int, ...]
    epochs: int
    targets: tuple[Target, ...] = ()

    @property
    def name(self) -> str:
        """Return the network's name in progress lines."""
        return self.config.text if self.config.kind == DENSE else f"{self.bases[0]} {self.config.text}"

    @property
    def is_parametric(self) -> bool:
        """Return True if the network has kernels of a parametric family."""
        return self.config.kind == ALL

    def fit(self, options: Options) -> str:
        """Return the target of its fit: that of the options, or the weights for a parametric family."""
        return FIT if self.is_parametric else options.fit

    def rounding(self, options: Options) -> str:
        """Return the rounding of its values: that of the options, or ``nearest`` for a parametric family."""
        return ROUNDING if self.is_parametric else options.rounding


def variants(options: Options) -> list[Variant]:
    """Return every network of a run: series in the order of the configs, parametric families, then dense networks.

    A parametric family has one network, over all spatial convolutions, whatever the configs are.

    The config ``dense`` is the uncompressed network as it is, quantized to the widths of ``--bits`` without
    fine-tuning. ``--dense-bits`` adds the competitor of the series: the dense network at those widths, after the same
    epochs of fine-tuning. A width in both is fine-tuned, so that every width has one row. With targets, every series
    has one row for each target instead of its widths.
    """
    found = []
    targets = targets_of(options)
    bits = () if targets else options.bits
    series = [basis for basis in options.basis if not is_parametric(basis)]
    for config in (parse_config(text) for text in options.config if text not in (DENSE, ALL)):
        found += [Variant(config, (basis,), bits, options.epochs, targets) for basis in series]
    families = filter(is_parametric, options.basis)
    found += [Variant(parse_config(ALL), (family,), bits, options.epochs) for family in families]
    dense = parse_config(DENSE)
    untrained = tuple(bits for bits in options.bits if bits not in options.dense_bits)
    if DENSE in options.config and untrained:
        found.append(Variant(dense, options.basis, untrained, 0))
    if options.dense_bits:
        found.append(Variant(dense, options.basis, options.dense_bits, options.epochs))
    return found


def targets_of(options: Options) -> tuple[Target, ...]:
    """Return the targets of a run: first the sizes, then the loss."""
    sizes = tuple(Target(megabytes=size) for size in options.target_mb)
    return sizes if options.target_drop is None else (*sizes, Target(drop=options.target_drop))
