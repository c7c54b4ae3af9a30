"""The networks of a run: what the options' combinations of config, basis and width come to."""

from dataclasses import dataclass

from pipeline.options.options import Options
from pipeline.options.orders import Config, parse_config


@dataclass(frozen=True)
class Variant:
    """One network that is approximated and fine-tuned once, and quantized to one or more widths.

    Attributes:
        config: Orders per stage, or ``dense``.
        bases: The bases whose rows it gives: one for a series, all of the run's for the dense network, which has none.
        bits: Widths that it is quantized to.
        epochs: Epochs of fine-tuning.
    """

    config: Config
    bases: tuple[str, ...]
    bits: tuple[int, ...]
    epochs: int

    @property
    def name(self) -> str:
        """What progress lines call it."""
        return self.config.text if self.config.kind == "dense" else f"{self.bases[0]} {self.config.text}"


def variants(options: Options) -> list[Variant]:
    """Every network of a run: the series in the order of the configs, then the dense one.

    The config ``dense`` is the uncompressed network as it is, at the widths of ``--bits``. ``--dense-bits`` asks for a
    rival of the series instead: the dense network at those widths too, after the same epochs of fine-tuning.
    """
    found = []
    texts = [text for text in options.config if text != "dense"]
    for config in map(parse_config, texts):
        found += [Variant(config, (basis,), options.bits, options.epochs) for basis in options.basis]
    if "dense" in options.config or options.dense_bits:
        own = options.bits if "dense" in options.config else ()
        bits = tuple(dict.fromkeys((*own, *options.dense_bits)))
        found.append(Variant(parse_config("dense"), options.basis, bits, options.epochs if options.dense_bits else 0))
    return found
