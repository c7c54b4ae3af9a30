"""The options of a run: every flag, validated once, with every mistake reported together."""

import shlex
from pathlib import Path
from typing import Any, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic import model_validator as validate_model

from pipeline.errors import OptionsError
from pipeline.options.dependent import check_with_basis, check_with_target, with_dependent_defaults
from pipeline.options.fields import (
    Bases,
    Bits,
    Configs,
    DenseBits,
    Device,
    Folder,
    ImageSize,
    Integer,
    Mean,
    Number,
    Output,
    PathText,
    Precision,
    Sizes,
    Std,
    Text,
    Tracked,
    TrackingUri,
    choice,
    option,
)
from pipeline.options.file import read_options_file, unknown_option
from pipeline.options.naming import command_words, default_out
from pipeline.options.orders import ALLOWED, AUTO, DENSE, default_model, parse_config
from pipeline.options.paths import names_checkpoint, parse_folder
from pipeline.options.registry import EXECUTORS
from pipeline.options.values import (
    CHOICES,
    flag_name,
    plain,
    refuse_network,
    require_installed,
    require_utf8,
    shown,
)

PROGRAM = ("python", "run_pipeline.py")
_TRACKERS = ", ".join(CHOICES["track"])


class Options(BaseModel):
    """Every option of a run, under the flag's name with underscores; ``--help`` describes each.

    Values may be given as on the command line (``bits="8,4"``) or as values of Python, NumPy or torch (``bits=(8, 4)``,
    ``mean=np.array([0.5])``). None selects an option's default. ``model`` and ``out`` are resolved when the options are
    built, and are never None afterwards.

    Raises:
        OptionsError: One or more values are invalid; the message lists every mistake.

    Example:
        >>> Options(config="6,3,3,2,2").model
        'resnet18'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Configs = option(
        ..., "Compression", "orders per stage (the largest, with a target), or dense; repeatable", f"configs: {ALLOWED}"
    )
    target_mb: Sizes = option(
        (), "Compression", "file sizes in MB (10^6 bytes), a comma list, instead of --bits", "sizes"
    )
    target_drop: Number | None = option(
        None,
        "Compression",
        "points of Top-1 that the smallest file may lose on held-out training images; replaces --bits",
        "a number above 0",
        gt=0,
        allow_inf_nan=False,
        validate_default=True,
    )
    bits: Bits = option((8, 4), "Compression", "bits per coefficient, a comma list", "2 to 8")
    dense_bits: DenseBits = option((), "Compression", "add dense rows of these widths, trained as long", "2 to 8")
    basis: Bases = option(("cosine",), "Compression", f"comma list of {', '.join(CHOICES['basis'])}", "a comma list")
    fit: str = choice("fit", "Compression", "target of the fit")
    rounding: str = choice("rounding", "Compression", "how coefficients are rounded")
    calibration_size: Integer = option(
        1000, "Compression", "training images of the fit and of rounding", "a whole number, 1 or more", gt=0
    )
    backend: str = choice("backend", "Compression", "library of the quantizers")
    scheme: str = choice("scheme", "Compression", "integers, or floats of 8 + bits stored bits")
    model: Text = option(None, "Model and data", "a network's name, or module:callable", "text", validate_default=True)
    weights: PathText = option(
        "auto", "Model and data", "a checkpoint file, torchvision's weights, builtin (the model's own), or auto", "text"
    )
    weights_key: Text | None = option(
        None, "Model and data", "key of the weights in the checkpoint file, such as model_ema", "a key: a.b"
    )
    output: Output | None = option(
        None, "Model and data", "number or name of the network's output with the logits", "a number from 0, or a name"
    )
    data: PathText = option("digits", "Model and data", "digits, an .npz file, or a folder of images or CIFAR", "text")
    mean: Mean = option((), "Model and data", "mean per channel of values in 0..1; by default the network's", "numbers")
    std: Std = option((), "Model and data", "deviation per channel of values in 0..1; see --mean", "numbers")
    image_size: ImageSize | None = option(
        None, "Model and data", "height and width of the images; by default the data's", "1 to 16384, or two of them"
    )
    limit_train: Integer | None = option(None, "Model and data", "use N training images", "1 or more", gt=0)
    limit_test: Integer | None = option(None, "Model and data", "use N test images", "1 or more", gt=0)
    epochs: Integer = option(5, "Training", "fine-tuning epochs; 0 = none", "a whole number, 0 or more", ge=0)
    distill: bool = option(True, "Training", "the uncompressed network teaches, or labels only", "true or false")
    qat_epochs: Integer = option(0, "Training", "epochs with fake-quantized coefficients", "0 or more", ge=0)
    batch_size: Integer = option(128, "Training", "images per step", "a whole number, 1 or more", gt=0)
    lr: Number | None = option(None, "Training", "peak learning rate", "above 0, at most 1e6", gt=0, le=1e6)
    workers: Integer = option(2, "Training", "processes that load images", "a whole number, 0 or more", ge=0)
    max_drop: Number | None = option(
        None, "Run", "gate: points of Top-1 that a row may lose", "a number, 0 or more", ge=0, allow_inf_nan=False
    )
    max_size_mb: Number | None = option(
        None, "Run", "gate: MB (10^6 bytes) of a row's artifact", "above 0", gt=0, allow_inf_nan=False
    )
    seed: Integer = option(0, "Run", "seed of every random choice", "a whole number, 0 to 4294967295", ge=0, lt=2**32)
    device: Device = option("auto", "Run", "auto, cpu, cuda, cuda:N, mps", "auto, cpu, cuda, cuda:N, mps")
    precision: Precision = choice("precision", "Training", "of training; auto is bf16 where it is faster and works")
    threads: Integer | None = option(
        None,
        "Run",
        "CPU threads; by default OMP_NUM_THREADS, or the cores within a CPU quota",
        "1 to 1024",
        gt=0,
        le=1024,
    )
    log_format: str = choice("log_format", "Run", "logs and progress for people, or a JSON object a line")
    track: Tracked = option((), "Run", f"comma list of {_TRACKERS}", f"{_TRACKERS}, none")
    tracking_uri: TrackingUri | None = option(
        None, "Run", "the MLflow server or store; by default MLFLOW_TRACKING_URI", "a URI"
    )
    experiment: Text | None = option(
        None, "Run", "the MLflow experiment; by default MLFLOW_EXPERIMENT_NAME, or seriesquant", "text"
    )
    onnx: bool = option(True, "Run", "an ONNX file of every row, measured in onnxruntime", "true or false")
    fresh: bool = option(False, "Run", "recompute results that are in the store", "true or false")
    cache_dir: Folder | None = option(None, "Run", "folder of the store of stage results", "a path")
    lock_timeout: Number = option(
        3600.0, "Run", "seconds to wait for another run", "a number, 0 or more", ge=0, allow_inf_nan=False
    )
    executor: str = choice("executor", "Run", "computes the grid in this process, or on a Ray cluster")
    ray_address: Text | None = option(
        None, "Run", "the cluster; by default RAY_ADDRESS, or a local one", "HOST:PORT of a running Ray cluster"
    )
    ray_cpus: Integer = option(1, "Run", "CPUs and threads of a Ray task", "a whole number, 1 or more", gt=0)
    ray_gpus: Number | None = option(
        None, "Run", "GPUs of a Ray task; by default 1 where the run has one", "0 or more", ge=0, allow_inf_nan=False
    )
    out: Path = option(
        None, "Run", "output folder; by default runs/<model>-<data>-<configs>", "a path", validate_default=True
    )

    def __init__(self, **values: object) -> None:
        """Check every value, see the class."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise OptionsError("; ".join(_sentence(dict(mistake)) for mistake in error.errors())) from None

    @validate_model(mode="before")
    @classmethod
    def _drop_missing(cls, values: dict[str, object]) -> dict[str, object]:
        return with_dependent_defaults({name: plain(value) for name, value in values.items() if value is not None})

    @field_validator("distill", "onnx", "fresh", mode="before")
    @classmethod
    def _only_bool(cls, value: object) -> object:
        if not isinstance(value, bool):
            raise ValueError("not true or false")
        return value

    @field_validator("target_drop")
    @classmethod
    def _fits_config(cls, value: float | None, info: ValidationInfo) -> float | None:
        configs = info.data.get("config", ())
        if value is None and not info.data.get("target_mb"):
            if AUTO in configs and "target_mb" in info.data:
                raise OptionsError(f"--config: got 'auto' without --target-mb or --target-drop; allowed: {ALLOWED}")
        elif DENSE in configs:
            raise OptionsError(
                "--config: got 'dense' beside a target, where a config is the largest orders; allowed: 'auto', "
                "orders such as '6,3,3,2,2', or --dense-bits for dense rows"
            )
        return value

    @field_validator("bits", "basis", "fit", "rounding", "scheme", "backend", "qat_epochs")
    @classmethod
    def _fits_rows(cls, value: object, info: ValidationInfo) -> object:
        name = str(info.field_name)
        usual = cls.model_fields[name].default  # every options file that a run writes holds it
        check_with_target(name, value, usual, info.data)
        check_with_basis(name, value, info.data)
        return value

    @field_validator("weights_key")
    @classmethod
    def _needs_checkpoint(cls, value: str | None, info: ValidationInfo) -> str | None:
        weights = info.data.get("weights")
        if value is not None and weights is not None and not names_checkpoint(weights):
            raise OptionsError(
                f"--weights-key: got {value!r} with --weights {weights}; allowed: with a checkpoint file"
            )
        return value

    @field_validator("scheme")
    @classmethod
    def _fits_backend(cls, value: str, info: ValidationInfo) -> str:
        if value == "minifloat" and info.data.get("backend") == "torch.ao":
            raise OptionsError("--scheme: got 'minifloat' with --backend torch.ao; allowed: int, or --backend brevitas")
        return value

    @field_validator("data", "weights", "model", "out", "cache_dir")
    @classmethod
    def _is_text(cls, value: object, info: ValidationInfo) -> object:
        return require_utf8(flag_name(str(info.field_name)), value)

    @field_validator("executor")
    @classmethod
    def _is_installed(cls, value: str) -> str:
        require_installed("--executor", value, EXECUTORS[value])
        return value

    @field_validator("ray_address", "ray_cpus", "ray_gpus")
    @classmethod
    def _needs_ray(cls, value: object, info: ValidationInfo) -> object:
        name = flag_name(str(info.field_name))
        usual = cls.model_fields[str(info.field_name)].default  # every options file that a run writes holds it
        if info.data.get("executor") == "local" and value != usual:
            raise OptionsError(f"{name}: got {value!r} with --executor local; allowed: with --executor ray")
        return value

    @field_validator("model", mode="wrap")
    @classmethod
    def _resolve_model(cls, value: object, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> object:
        if value is not None:
            refuse_network(value)
            return check(value)
        if "config" not in info.data:  # no options are built: the wrong config is an error already
            return None
        return default_model([parse_config(text) for text in info.data["config"]])

    @field_validator("out", mode="before")
    @classmethod
    def _resolve_out(cls, value: object, info: ValidationInfo) -> object:
        return default_out(info.data) if value is None else parse_folder(value, info)

    def command(self) -> str:
        """Return the command line that repeats the run: the configs, and every option that is not the default."""
        values = {name: getattr(self, name) for name in Options.model_fields}
        defaults = {name: field.default for name, field in Options.model_fields.items()}
        return shlex.join([*PROGRAM, *command_words(values, defaults)])


def load_options_file(path: Path) -> dict[str, object]:
    """Read options from a YAML or TOML file.

    Returns:
        Option name -> value as in the file, for ``Options(**...)``.

    Raises:
        OptionsError: The file cannot be read, or an option in it does not exist.
    """
    return read_options_file(path, list(Options.model_fields))


def options_from(flags: dict[str, object], file: Path | None) -> Options:
    """Merge flags with an options file; a flag wins over the file.

    Raises:
        OptionsError: An option is wrong, missing or unknown.
    """
    return Options(**{**(load_options_file(file) if file else {}), **flags})


def _sentence(mistake: dict[str, Any]) -> str:
    name = str(mistake["loc"][0])
    cause = mistake.get("ctx", {}).get("error")
    if isinstance(cause, OptionsError):
        return str(cause)
    if mistake["type"] == "extra_forbidden":
        return unknown_option(name, list(Options.model_fields))
    allowed = cast(dict[str, str], Options.model_fields[name].json_schema_extra)["allowed"]
    got = "is missing" if mistake["type"] == "missing" else f"got {shown(mistake['input'])}"
    return f"{flag_name(name)}: {got}; allowed: {allowed}"
