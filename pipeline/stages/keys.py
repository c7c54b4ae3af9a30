"""Names and cache keys of all stages of a variant, known before anything is computed."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

from pipeline.options.grid import Variant
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext, calibration_inputs, network_identity
from pipeline.stages.evaluate import top1_key
from pipeline.stages.network import trains_baseline
from pipeline.stages.train import TrainingJob, training_job
from pipeline.store.store import StageKey
from pipeline.training.schedule import Schedule, suited_schedule
from pipeline.training.selection import Margin, margin_of
from pipeline.training.state import TrainingLabel
from quant.schemes import Format, get_format

# Peak learning rates: docs/training.md has the measurements.
FINETUNE_LR: Final = 0.06
QAT_LR: Final = 0.01


@dataclass(frozen=True)
class WidthKeys:
    """The stages of one width of a variant.

    Attributes:
        name: The combination's name in messages.
        format: The number format.
        rounding: ``gptq`` or ``nearest``.
        training: Quantization-aware training; None without epochs.
        artifact: Rounding, the files and their figures.
    """

    name: str
    format: Format
    rounding: str
    training: TrainingJob | None
    artifact: StageKey


@dataclass(frozen=True)
class VariantKeys:
    """The stages of one variant.

    Attributes:
        fit: The fit of the coefficients; None for the dense network.
        fitted: Top-1 of the fitted network; None for the dense network.
        training: Fine-tuning; None without epochs.
        tuned: Top-1 of the network that is quantized.
        widths: Bits -> the stages of that width.
    """

    fit: StageKey | None
    fitted: StageKey | None
    training: TrainingJob | None
    tuned: StageKey
    widths: dict[int, WidthKeys]

    def __iter__(self) -> Iterator[StageKey]:
        """Iterate over all stages in order."""
        yield from (stage for stage in (self.fit, self.fitted) if stage is not None)
        jobs = [(self.training, self.tuned), *((width.training, width.artifact) for width in self.widths.values())]
        for job, next_stage in jobs:
            if job is not None:
                yield job.stage
            yield next_stage


def variant_keys(context: RunContext, baseline: Baseline, variant: Variant) -> VariantKeys:
    """Name the stages of a variant. Each key hashes the key of the stage before it and the inputs of the stage."""
    options, name, network = context.options, variant.name, baseline.digest
    fit = fitted = training = None
    if variant.config.kind != "dense":
        planned = {"config": variant.config.text, "basis": variant.bases[0], "fit": variant.fit(options)}
        key = context.store.key("fit", network=network, calibration=calibration_inputs(context), **planned)
        fit, fitted, network = StageKey(f"{name}: fit", key), top1_key(context, f"{name}, fitted", key), key
    if variant.epochs:
        schedule = _schedule(context, variant.epochs, options.lr, FINETUNE_LR)
        training = training_job(
            context,
            f"{name}: fine-tuning",
            TrainingLabel(name, "finetune"),
            network,
            schedule,
            teacher=baseline.teacher,
            margin=_margin(context, schedule),
            mirrored=baseline.mirrored,
        )
        network = training.stage.key
    tuned = top1_key(context, f"{name}, fine-tuned" if training else name, network)
    widths = {bits: _width(context, baseline, variant, bits, network) for bits in variant.bits}
    return VariantKeys(fit, fitted, training, tuned, widths)


def _schedule(context: RunContext, epochs: int, lr: float | None, default: float) -> Schedule:
    return suited_schedule(len(context.images.trained), epochs, context.options.batch_size, lr=lr, default=default)


def _margin(context: RunContext, schedule: Schedule) -> Margin:
    loaded = not trains_baseline(context.options, context.data)
    return margin_of(schedule, len(context.images.trained), seen=loaded)


def _width(context: RunContext, baseline: Baseline, variant: Variant, bits: int, network: str) -> WidthKeys:
    options, store = context.options, context.store
    format = get_format(options.scheme, bits)
    name = f"{variant.name}, {format}"
    how = {"scheme": format.scheme, "bits": bits, "backend": options.backend, "rounding": variant.rounding(options)}
    source = store.key("rounding", network=network, calibration=calibration_inputs(context), **how)
    training = None
    if options.qat_epochs:
        schedule = _schedule(context, options.qat_epochs, None, QAT_LR)
        training = training_job(
            context,
            f"{name}: quantization-aware training",
            TrainingLabel(variant.name, "qat", bits),
            source,
            schedule,
            teacher=baseline.teacher,
            margin=_margin(context, schedule),
            mirrored=baseline.mirrored,
            first_epoch=variant.epochs,
        )
        source = training.stage.key
    written = {
        "identity": asdict(network_identity(context)),
        "test": context.data.test.digest,
        "onnx": options.onnx,
    }
    artifact = StageKey(f"{name}: quantization", store.key("artifact", source=source, **written))
    return WidthKeys(name, format, variant.rounding(options), training, artifact)
