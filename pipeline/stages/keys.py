"""The stages of a variant and the keys of their results, known before anything is computed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.stages.context import RunContext
from pipeline.stages.train import TrainingJob
from pipeline.store.store import StageKey
from pipeline.training.loop import Schedule
from quant.schemes import Format, get_format

FINETUNE_LR = 0.06
QAT_LR = 0.01


@dataclass(frozen=True)
class WidthKeys:
    """What is done for one width.

    Attributes:
        name: What messages call the combination.
        format: The number format.
        course: Of quantization-aware training.
        training: That training; None without epochs.
        artifact: Rounding, the files and their figures.
    """

    name: str
    format: Format
    course: TrainingJob
    training: StageKey | None
    artifact: StageKey


@dataclass(frozen=True)
class VariantKeys:
    """What is done for one variant.

    Attributes:
        fit: The fit of the coefficients; None for the dense network.
        fitted: Top-1 of the fitted network; None for the dense network.
        course: Of fine-tuning.
        training: Fine-tuning; None without epochs.
        tuned: Top-1 of the network that is quantized.
        widths: Bits -> what is done for them.
    """

    fit: StageKey | None
    fitted: StageKey | None
    course: TrainingJob
    training: StageKey | None
    tuned: StageKey
    widths: dict[int, WidthKeys]

    def __iter__(self) -> Iterator[StageKey]:
        """Every stage, in order."""
        widths = [step for width in self.widths.values() for step in (width.training, width.artifact)]
        return (step for step in (self.fit, self.fitted, self.training, self.tuned, *widths) if step is not None)


def variant_keys(options: Options, variant: Variant, context: RunContext) -> VariantKeys:
    """Name the stages of a variant; each key is made of the key of the stage before it and of what the stage adds."""
    store, name, network = context.store, variant.name, context.digest
    fit = fitted = training = None
    if variant.config.kind != "dense":
        planned = {"config": variant.config.text, "basis": variant.bases[0], "fit": options.fit}
        key = store.key("fit", network=network, calibration=context.calibration_inputs(), **planned)
        fit, fitted, network = StageKey(f"{name}: fit", key), context.top1_step(f"{name}, fitted", key), key
    course = context.course(Schedule(variant.epochs, options.lr or FINETUNE_LR, options.batch_size), 0)
    if variant.epochs:
        training = course.step(store, network, f"{name}: fine-tuning")
        network = training.key
    tuned = context.top1_step(f"{name}, fine-tuned" if training else name, network)
    widths = {bits: _width(options, variant, bits, network, context) for bits in variant.bits}
    return VariantKeys(fit, fitted, course, training, tuned, widths)


def _width(options: Options, variant: Variant, bits: int, network: str, context: RunContext) -> WidthKeys:
    format = get_format(options.scheme, bits)
    name, store = f"{variant.name}, {format}", context.store
    how = {"scheme": format.scheme, "bits": bits, "backend": options.backend, "rounding": options.rounding}
    source = store.key("rounding", network=network, calibration=context.calibration_inputs(), **how)
    course = context.course(Schedule(options.qat_epochs, QAT_LR, options.batch_size), variant.epochs)
    training = course.step(store, source, f"{name}: quantization-aware training") if options.qat_epochs else None
    source = training.key if training else source
    written = {"identity": asdict(context.identity), "test": context.data.test.digest}
    artifact = StageKey(f"{name}: quantization", store.key("artifact", source=source, **written))
    return WidthKeys(name, format, course, training, artifact)
