"""Expand the options into the networks of a run: config x basis x widths."""

from dataclasses import dataclass

from pipeline.options.options import Options
from pipeline.options.orders import Config, parse_config


@dataclass(frozen=True)
class Variant:
    """A network that is approximated and fine-tuned once, and quantized to one or more widths.

    Attributes:
        config: Orders per stage, or ``dense``.
        bases: The bases of its rows: one for a series; for the dense network, which has no basis, all of the run.
        bits: Widths of its quantization.
        epochs: Epochs of fine-tuning.
    """

    config: Config
    bases: tuple[str, ...]
    bits: tuple[int, ...]
    epochs: int

    @property
    def name(self) -> str:
        """Return the network's name in progress lines."""
        return self.config.text if self.config.kind == "dense" else f"{self.bases[0]} {self.config.text}"


def variants(options: Options) -> list[Variant]:
    """Return every network of a run: the series in the order of the configs, then the dense networks.

    The config ``dense`` is the uncompressed network as it is, quantized to the widths of ``--bits`` without
    fine-tuning. ``--dense-bits`` adds the competitor of the series: the dense network at those widths, after the same
    epochs of fine-tuning. A width in both is fine-tuned, so that every width has one row.
    """
    found = []
    texts = [text for text in options.config if text != "dense"]
    for config in map(parse_config, texts):
        found += [Variant(config, (basis,), options.bits, options.epochs) for basis in options.basis]
    dense = parse_config("dense")
    untrained = tuple(bits for bits in options.bits if bits not in options.dense_bits)
    if "dense" in options.config and untrained:
        found.append(Variant(dense, options.basis, untrained, 0))
    if options.dense_bits:
        found.append(Variant(dense, options.basis, options.dense_bits, options.epochs))
    return found
