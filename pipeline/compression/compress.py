"""``pipeline.compress``: a live network in, a compressed network and its figures out."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from basis.copying import copy_network
from basis.devices import device_of
from basis.modes import evaluating
from basis.swap import materialize
from pipeline.artifact import Identity, plan_stream, serialize
from pipeline.artifact.record import NetworkRecord, build_network, record_network
from pipeline.artifact.summary import account
from pipeline.compression.images import Images, read_images
from pipeline.compression.network import check, identity_of, private_copy, returns_tensor, selected
from pipeline.compression.result import CompressionResult, Metric, layer_figures, measured, measured_or_none
from pipeline.compression.settings import Config, Settings, device_from, naming_arguments, settings_of
from pipeline.compression.target import compress_to_size
from pipeline.compression.training import Trainer, check_training, divided
from pipeline.errors import OptionsError
from pipeline.models.layer_orders import LayerPlan, plan_layers
from pipeline.models.outputs import are_logits, logits_of
from pipeline.models.preparation import plain_copy
from pipeline.models.replacement import replace_layers, replaced_layers
from pipeline.runtime.device import placed
from pipeline.runtime.progress import Progress, checked_progress
from pipeline.runtime.randomness import deterministic_algorithms
from pipeline.runtime.turns import TURNS, YieldingProgress
from pipeline.stages.approximate import fit_series
from pipeline.stages.keys import FINETUNE_LR
from pipeline.stages.network import CHECKED_IMAGES
from pipeline.stages.quantize import rounded_network
from pipeline.stages.targets.compressor import TARGET_LR
from pipeline.stages.targets.sizes import check_sizes, series_network, size_range
from pipeline.training.schedule import suited_schedule
from pipeline.training.trial import check_gradients
from quant.backends import get_backend
from quant.network import quantize_network
from quant.rate_rounding import ROUNDING_IMAGES
from quant.schemes import get_format


def compress(
    network: nn.Module,
    images: Images,
    *,
    config: Config | None = None,
    bits: int | None = None,
    target_mb: float | None = None,
    metric: Metric | None = None,
    basis: str | None = None,
    fit: str | None = None,
    rounding: str | None = None,
    scheme: str = "int",
    backend: str = "brevitas",
    epochs: int = 0,
    lr: float | None = None,
    batch_size: int = 128,
    calibration_size: int = 1000,
    seed: int = 0,
    output: str | int | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> CompressionResult:
    """Compress a network in memory. Nothing of the caller's network is changed, and no file is written.

    Args:
        network: Any trained network in float32, also of a class that only the caller has. The fit and the rounding take
            any output. Training and targets take one tensor of the output; see ``output``.
        images: Images as the network takes them, normalized. A float tensor, (N, C, H, W), or a pair or a dict of such
            a tensor and labels, (N,). Or a ``DataLoader``, a data set, or any iterable of batches, each a tensor, a
            tuple or a dict. NumPy arrays count as tensors. Only training uses labels. A generator is read once, up to
            ``calibration_size`` images.
        config: Terms kept per axis. Text with one order for each stage, as on the command line (``"6,3,3,2,2"``), a
            list of orders, or one order for all stages; with a target, upper limits. ``"dense"`` is no series, and
            ``"auto"`` (default of targets) is no limit. Series networks, ``fracsrf`` and ``fractional`` need none.
        bits: Width of the stored values, 2 to 8. None, without a target either, keeps float coefficients.
        target_mb: Size of the file in MB (10^6 bytes), instead of ``bits``.
        metric: A function of a network that returns a number. It is called with copies of the original and the
            compressed network, in evaluation mode, on the original's device.
        basis: ``cosine`` (default), ``chebyshev``, ``fracsrf`` or ``fractional``. A network with series keeps its own.
        fit: ``activations`` (the default) fits to the layers' outputs, ``weights`` to the filters alone. ``fracsrf``
            and ``fractional`` allow only ``weights``.
        rounding: ``gptq`` (the default) or ``nearest``. ``fracsrf`` and ``fractional`` allow only ``nearest``.
        scheme: ``int`` or ``minifloat``.
        backend: ``brevitas`` or ``torch.ao``.
        epochs: Passes of training over the images, 0 for none: fine-tuning before the rounding, or with a target
            training through the rounding. The original network is the teacher. Labels are learned too if there are any.
        lr: Peak learning rate; None for a default that depends on the number of steps.
        batch_size: Images per training step. A ``DataLoader`` decides the size itself.
        calibration_size: Most images for the fit and for rounding.
        seed: Seed of every random choice.
        output: Number or name of the tensor that training and targets take, for a network that returns several. None
            selects the only tensor, the entry ``logits``, or the first of a tuple or list. The compressed network still
            returns all of them. Without training and a target it is checked only, because nothing needs it.
        device: Device that computes; None for the network's. The result is on the network's device.
        progress: Shows stages and epochs; None shows nothing.

    Returns:
        The compressed network and its figures.

    Raises:
        OptionsError: An argument is wrong, or the network cannot be compressed.
        DataError: The images are missing or damaged, or of another kind.
        NumericalError: A fit, a rounding or a training has values that are not finite.

    Example:
        >>> result = compress(network, images, config="6,3,3,2,2", bits=4)
        >>> result.save("small.safetensors").stat().st_size == result.size
        True
    """
    with _undisturbed(), naming_arguments():
        original = private_copy(network)
        settings = settings_of(
            original,
            config=config,
            bits=bits,
            target_mb=target_mb,
            device=device_from(device, device_of(original)),
            basis=basis,
            fit=fit,
            rounding=rounding,
            scheme=scheme,
            backend=backend,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            calibration_size=calibration_size,
            seed=seed,
            output=None if output is None else str(output),
        )
        if metric is not None and not callable(metric):
            raise OptionsError(f"metric: got a {type(metric).__name__}; allowed: a function of a network")
        work = _prepared(original, images, settings, YieldingProgress(checked_progress(progress)))
        baseline_metric = measured(metric, original)
        found = _compressed(work)
        result = _network_of(found, original, work.selection)
        plan = plan_stream(found.record)
        content = serialize(found.record, work.identity, plan)
        (sizes, _), errors = account(found.record, content, plan), (found.fit_errors, found.rounding_errors)
        return CompressionResult(
            result,
            layer_figures(work.plan, found.record, sizes, *errors, target=bool(settings.variant.targets)),
            len(content),
            len(serialize(_float_record(original), work.identity)),
            measured_or_none(metric, result),
            baseline_metric,
            found.training_undone,
            found.target_met,
            content,
        )


@dataclass(frozen=True, eq=False)
class _Work:
    """The checked inputs of a compression.

    Attributes:
        original: A copy of the network where stages compute.
        calibration: Images, float32, (N, C, H, W), on the device.
        plan: The plan of every layer.
        identity: The description of the network in the file.
        settings: The validated arguments.
        logits: True if the outputs are logits of labelled classes.
        selection: Key of the forward hook of ``original`` that selects one output; None without one.
        trainer: Trains networks; None without epochs.
        progress: Shows stages.
    """

    original: nn.Module
    calibration: Tensor
    plan: list[LayerPlan]
    identity: Identity
    settings: Settings
    logits: bool
    selection: int | None
    trainer: Trainer | None
    progress: Progress


@dataclass(frozen=True, eq=False)
class _Found:
    """A compressed network: its tensors, its errors, and without rounding the network with its series."""

    record: NetworkRecord
    fit_errors: dict[str, float] = field(default_factory=dict)
    rounding_errors: dict[str, float] = field(default_factory=dict)
    training_undone: bool = False
    target_met: bool = True
    series: nn.Module | None = None


@contextmanager
def _undisturbed() -> Generator[None]:
    """Compute as a run does, whatever modes of torch the caller is in."""
    with ExitStack() as modes:
        modes.enter_context(TURNS.computing())
        modes.enter_context(deterministic_algorithms())
        if torch.get_default_device() != torch.device("cpu"):
            modes.enter_context(torch.device("cpu"))
        modes.enter_context(torch.inference_mode(False))  # gradients are on inside
        for kind in ("cpu", "cuda"):
            modes.enter_context(torch.autocast(kind, enabled=False))
        yield


def _prepared(original: nn.Module, images: Images, settings: Settings, progress: Progress) -> _Work:
    """Read the images, and check all that can be checked before anything is computed."""
    options, variant, device = settings.options, settings.variant, settings.device
    trained = options.epochs > 0
    given = read_images(
        images, count=options.calibration_size, seed=options.seed, batch_size=options.batch_size, train=trained
    )
    model = evaluating(plain_copy(original).to(device))
    calibration = given.calibration.to(device, memory_format=torch.channels_last)
    examples = calibration[:CHECKED_IMAGES]
    output = check(model, examples, basis=variant.bases[0], trained=trained)
    placed(model, device)
    plan = plan_layers(model, variant.config)
    identity, selection = identity_of(original, output, calibration), None
    if (variant.targets or trained) and not returns_tensor(model, examples, trained=trained):
        selection, output = selected(model, examples, options.output)
    elif options.output is not None:
        logits_of(output, options.output, type(model).__name__)  # refuses it if it is not the only tensor
    if variant.targets:
        check_gradients(copy_network(model), examples, min(len(calibration), ROUNDING_IMAGES))
        check_sizes(variant, size_range(series_network(model, variant), identity))
    logits = given.labels is not None and isinstance(output, Tensor) and are_logits(output)
    trainer = None
    if options.epochs:
        rounds = bool(variant.targets)
        given = check_training(model, output, given, options.batch_size, through_rounding=rounds)
        parts, peak = divided(given), TARGET_LR if rounds else FINETUNE_LR
        schedule = suited_schedule(len(parts.trained), options.epochs, options.batch_size, lr=options.lr, default=peak)
        trainer = Trainer(model, parts, given.labels is not None, schedule, options.seed, device, progress)
    return _Work(model, calibration, plan, identity, settings, logits, selection, trainer, progress)


def _compressed(work: _Work) -> _Found:
    """Compress the network to a size, or approximate, train and round it."""
    variant = work.settings.variant
    if variant.targets:
        (target,) = variant.targets
        sized = compress_to_size(
            work.original,
            work.calibration,
            variant,
            work.identity,
            seed=work.settings.options.seed,
            logits=work.logits,
            trainer=work.trainer,
            progress=work.progress,
        )
        return _Found(sized.record, {}, sized.errors, sized.training.undone, target.fits(sized.size))
    model, fit_errors, undone = _approximated(work)
    if work.settings.bits is None:
        return _Found(_float_record(model), fit_errors, {}, undone, series=model)
    options, format = work.settings.options, get_format(work.settings.options.scheme, work.settings.bits)
    backend = get_backend(options.backend)
    work.progress.stage(f"{variant.name}: round to {format}")
    stored, found = rounded_network(
        model, work.calibration, format, backend, rounding=variant.rounding(options), seed=options.seed
    )
    record = record_network(stored, quantize_network(stored, format, backend, found.layers))
    return _Found(record, fit_errors, found.errors, undone)


def _approximated(work: _Work) -> tuple[nn.Module, dict[str, float], bool]:
    """Replace convolutions by series, fit them, and train; returns the network, its errors, and True if rolled back."""
    options, variant = work.settings.options, work.settings.variant
    model, errors, undone = copy_network(work.original), {}, False
    if replaced_layers(work.plan):
        work.progress.stage(f"{variant.name}: approximate")
        model = evaluating(placed(replace_layers(model, work.plan, variant.bases[0]), work.settings.device))
        errors = fit_series(model, work.original, work.calibration, fit=variant.fit(options), seed=options.seed)
    if work.trainer is not None:
        undone = work.trainer.train(model, f"{variant.name}: fine-tuning").undone
    return model, errors, undone


def _float_record(model: nn.Module) -> NetworkRecord:
    """Record a network in float32, with plain filters."""
    return record_network(materialize(copy_network(model)), {})


def _network_of(found: _Found, original: nn.Module, selection: int | None) -> nn.Module:
    """Return the compressed network with all its outputs, on the device of the original.

    It is in contiguous memory, as a loaded file is: the last bits of outputs depend on the memory format.
    """
    if found.series is None:
        network = build_network(found.record, materialize(copy_network(original)))
    else:
        network = found.series.to(device_of(original))
        if selection is not None:
            del network._forward_hooks[selection]
    return evaluating(network.to(memory_format=torch.contiguous_format))
