"""Load the uncompressed network, or train it once on the data, and measure it."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from basis.copying import copy_network
from basis.modes import evaluating
from pipeline.data.dataset import is_imagenet
from pipeline.models.checkpoint.files import existing_checkpoint
from pipeline.models.checks.registration import outputs_of
from pipeline.models.checks.unstored import changing_tensor
from pipeline.models.claims import Claim, torchvision_claim
from pipeline.models.digest import network_digest
from pipeline.models.preparation import check_finite, fold_parametrizations
from pipeline.models.registry import build_trainable
from pipeline.models.torchvision_models import missing_download
from pipeline.models.weights import load_torchvision_weights, load_weights
from pipeline.onnx.file import OnnxExporter
from pipeline.options.options import Options
from pipeline.options.paths import check_local, names_checkpoint
from pipeline.options.values import BUILTIN
from pipeline.runtime.device import placed
from pipeline.stages.context import RunContext
from pipeline.stages.evaluate import Measurement, measured_once, top1_key
from pipeline.stages.mirroring import Mirroring, mirroring_once
from pipeline.stages.network import automatic_weights, example_images
from pipeline.stages.plausibility import baseline_warnings
from pipeline.stages.train import TrainingJob, train_once, training_job
from pipeline.store.entry import load_state, state_of
from pipeline.store.store import StageKey
from pipeline.training.output_values import check_values
from pipeline.training.schedule import Schedule
from pipeline.training.selection import ANY_GAIN
from pipeline.training.state import TrainingLabel
from pipeline.training.teacher import Teacher

logger = logging.getLogger(__name__)

BASELINE_SCHEDULE: Final = Schedule(10, lr=0.05, batch_size=64, weight_decay=5e-4)


@dataclass(frozen=True)
class Baseline:
    """The uncompressed network.

    Attributes:
        model: The network, on the run's device and in evaluation mode; no stage changes it.
        digest: See ``pipeline.models.digest.network_digest``.
        origin: The source of its weights, in words for the report.
        top1: Top-1 on the test images, in percent; NaN in a dry run, which does not measure it.
        teacher: The same network as a teacher; None if training uses labels only.
        warnings: Sentences about a Top-1 that a trained network should not have.
        epoch: Epoch of its training whose weights were kept; None if its weights were loaded.
        exporter: Writes the ONNX files of all rows, from one traced graph.
        measured: Its figures on the test images; None where rows are made elsewhere than reported, and in a dry run.
        mirroring: Its figures on mirror images; None if no training mirrors images.
    """

    model: nn.Module
    digest: str
    origin: str
    top1: float
    teacher: Teacher | None
    warnings: tuple[str, ...] = ()
    epoch: int | None = None
    exporter: OnnxExporter = field(default_factory=OnnxExporter)
    measured: Measurement | None = None
    mirroring: Mirroring | None = None

    @property
    def mirrored(self) -> bool:
        """False if training mirrors no images, although the data allow it."""
        return self.mirroring is None or self.mirroring.suits

    @property
    def notes(self) -> list[str]:
        """Sentences for the report on what training does not do."""
        return [] if self.mirroring is None or self.mirroring.suits else [self.mirroring.note]


@dataclass(frozen=True)
class InitialNetwork:
    """The uncompressed network before its training, if it needs any.

    Attributes:
        model: The network, with its weights if they are loaded.
        origin: See ``Baseline``.
        job: Its training; None if its weights are loaded.
        download: The address and size of its weights, if they were to be downloaded first.
        claim: The Top-1 that the source of the weights states for this kind of data, or None.
    """

    model: nn.Module
    origin: str
    job: TrainingJob | None = None
    download: str = ""
    claim: Claim | None = None


def prepare_baseline(context: RunContext) -> Baseline:
    """Load or train the uncompressed network, and measure its Top-1.

    Raises:
        OptionsError: The model is unknown or does not accept the images, or gives NaN or +inf.
        DataError: The weights are missing, damaged or do not fit.
        NumericalError: Training diverged.
    """
    context.progress.stage(f"baseline: {context.options.model} on {context.data.name}")
    with context.processes.together():
        initial = initial_network(context)
    epoch = None if initial.job is None else train_once(context, initial.model, initial.job).epoch
    model = evaluating(placed(initial.model, context.device))
    _check_outputs(context, model)
    digest = network_digest(_name(context), model)
    measured = measured_once(context, model, baseline_key(context, digest))
    top1 = measured.top1
    context.progress.result(f"baseline: Top-1 {top1:.2f}")
    warnings = baseline_warnings(
        top1,
        len(context.data.test),
        context.data.classes,
        trained=initial.job is not None,
        claim=initial.claim,
    )
    for warning in warnings if context.processes.is_main else ():
        logger.warning("warning: %s", warning)
    mirroring = mirroring_once(context, model, digest)
    baseline = make_baseline(context, model, initial.origin, top1, mirroring)
    if mirroring is not None and context.processes.is_main:
        logger.info("%s", mirroring.note)
    return replace(baseline, warnings=warnings, epoch=epoch, measured=measured)


def _check_outputs(context: RunContext, model: nn.Module) -> None:
    """Check the logits of the network with its weights, which the check of its architecture had not."""
    logits = outputs_of(model, example_images(context.data).to(context.device))
    check_values(logits, f"--model {context.options.model} with --weights {context.options.weights}", "other weights")


def make_baseline(
    context: RunContext, model: nn.Module, origin: str, top1: float, mirroring: Mirroring | None = None
) -> Baseline:
    """Put a network whose weights are known on the run's device, with its digest and, if wanted, its teacher."""
    model = evaluating(placed(model, context.device))
    teacher = None
    if context.options.distill:
        teacher = Teacher(model, context.accelerator, mirrored=mirroring is not None and mirroring.learned)
    return Baseline(model, network_digest(_name(context), model), origin, top1, teacher, mirroring=mirroring)


def _name(context: RunContext) -> str:
    """Return the name of the network and its selected output, which determine its logits beside its values."""
    options = context.options
    return options.model if options.output is None else f"{options.model}, output {options.output}"


def baseline_key(context: RunContext, digest: str) -> StageKey:
    """Return the stage that measures the baseline."""
    return top1_key(context, "baseline", digest)


def check_weights(options: Options) -> None:
    """Check that the checkpoint of the options exists, before the data are read, which may take minutes.

    Raises:
        DataError: It does not, or it is an address of another machine.
    """
    check_local("--weights", options.weights)
    if names_checkpoint(options.weights):
        existing_checkpoint(Path(options.weights))


def initial_network(context: RunContext, *, may_download: bool = True) -> InitialNetwork:
    """Load the network's weights, or return the training that makes them.

    Args:
        context: The run.
        may_download: False to return random weights in place of weights that are not in torch's cache.

    Raises:
        OptionsError: The model is unknown or does not accept the images.
        DataError: The weights are missing, damaged or do not fit.
    """
    model_name, weights, data = context.options.model, context.options.weights, context.data
    if weights == BUILTIN:
        model = _built_network(context)
        check_finite(model, f"--weights builtin: the network {model_name}")
        if not _is_seeded_alike(context, model):
            seed = context.options.seed
            logger.warning("--weights builtin: %s is built with random weights, here of seed %d", model_name, seed)
        _warn_of_unstored(context, model)
        return InitialNetwork(_with_values_of(context, model), BUILTIN)
    if weights == "auto":
        known = automatic_weights(context.options, data)
        if known is None:
            return _to_train(context)
        weights = known
    elif names_checkpoint(weights):
        model = _built_network(context)
        key, claim = load_weights(model, Path(weights), context.options.weights_key)
        _warn_of_unstored(context, model)
        origin = f"checkpoint {Path(weights).name}" + (f", {key}" if key else "")
        return InitialNetwork(_with_values_of(context, model), origin, claim=claim)
    download = "" if may_download else missing_download(model_name, data.classes, weights)
    if download:
        network = _with_values_of(context, _built_network(context))
        return InitialNetwork(network, f"torchvision {weights}", download=download)
    model = load_torchvision_weights(model_name, data.classes, weights)
    claim = torchvision_claim(model_name, weights) if is_imagenet(data) else None
    return InitialNetwork(_with_values_of(context, model), f"torchvision {weights}", claim=claim)


def _warn_of_unstored(context: RunContext, model: nn.Module) -> None:
    """Warn if a network draws values that its weights do not hold; in a run they are those of seed 0."""
    if changing := changing_tensor(model, lambda: _built_network(context, context.options.seed ^ 1)):
        logger.warning(
            "--weights %s: the network %s draws %s when it is built, and no checkpoint holds it, so it may not have "
            "the value of the training; register it as a persistent buffer",
            context.options.weights,
            context.options.model,
            changing,
        )


def _built_network(context: RunContext, seed: int | None = None) -> nn.Module:
    """Build the network with the weights of a seed, by default the run's; it takes the state dict of a checkpoint."""
    options, data = context.options, context.data
    return build_trainable(
        options.model, data.classes, example_images(data), seed=options.seed if seed is None else seed
    )


def _with_values_of(context: RunContext, model: nn.Module) -> nn.Module:
    """Copy the values of a network into the checked architecture, with effective weights for parametrized ones."""
    network = copy_network(context.network)
    load_state(network, state_of(fold_parametrizations(model)))
    return evaluating(network)


def _to_train(context: RunContext) -> InitialNetwork:
    built, name, data = _built_network(context), context.options.model, context.data.name
    is_trained = ":" in name and _is_seeded_alike(context, built)  # before its parametrizations are folded
    model = _with_values_of(context, built)
    job = training_job(
        context,
        f"baseline: training {name} on {data}",
        TrainingLabel("baseline", "training"),
        network_digest(_name(context), model),
        BASELINE_SCHEDULE,
        margin=ANY_GAIN,
    )
    origin = f"trained on {data} for {BASELINE_SCHEDULE.epochs} epochs, seed {context.options.seed}"
    if is_trained:
        logger.warning(
            "%s returns the same weights for every seed, as a trained network does; --weights auto trains them for %d "
            "epochs on %s, and --weights builtin keeps them",
            name,
            BASELINE_SCHEDULE.epochs,
            data,
        )
        origin += "; --weights builtin keeps the weights that the model is built with"
    return InitialNetwork(model, origin, job)


def _is_seeded_alike(context: RunContext, model: nn.Module) -> bool:
    """Return True if the model has the same weights when it is built under another seed."""
    other = _built_network(context, context.options.seed ^ 1).state_dict()
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    return all(name in other and torch.equal(value, other[name]) for name, value in own.items())
