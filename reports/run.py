"""Typed header of a run in report.json: command, network, data, machine, options and stages."""

from typing import Annotated, Literal

from pydantic import Field

from reports.fields import Figure, Megabytes, Options, Pair, Part, Positive, Text, Versions


class Dataset(Part):
    """Data of a run."""

    name: Text = Field(description="Name of the data.")
    train_images: Positive = Field(description="Number of training images used.")
    test_images: Positive = Field(description="Number of test images used.")
    classes: Positive = Field(description="Number of classes of the network.")
    mean: list[Figure] | None = Field(
        default=None, description="Mean per channel of the input's normalization, for values in 0..1."
    )
    std: list[Figure] | None = Field(
        default=None, description="Standard deviation per channel of the input's normalization, for values in 0..1."
    )
    image_size: Pair | None = Field(default=None, description="Height and width of the images (pixels).")
    notes: list[Text] | None = Field(default=None, description="Choices that were made when the data were read.")
    digest: Text | None = Field(
        default=None, description="SHA-256 of the images used: of arrays their content, of folders their files' stamps."
    )


class Hardware(Part):
    """Machine of a run."""

    cpu: str | None = Field(default=None, description="Name of the CPU.")
    cores: Positive | None = Field(default=None, description="Number of cores that the process may use.")
    threads: Positive | None = Field(
        default=None, description="Number of threads that PyTorch uses; null if PyTorch was not loaded."
    )
    memory_gb: Megabytes | None = Field(default=None, description="Memory of the machine (10^9 bytes).")
    accelerator: str | None = Field(default=None, description="Name of the accelerator; null on the CPU.")


class Stage(Part):
    """One stage of a run."""

    name: Text = Field(description="Name of the stage.")
    key: Text = Field(description="Cache key of its result.")
    cached: bool = Field(strict=True, description="True if the result was read from the store.")
    seconds: Figure | None = Field(description="Duration when the stage was computed, in this run or before (seconds).")
    peak_memory_mb: Figure | None = Field(
        default=None,
        description="Largest memory that the process had used by the end of the stage, when it was computed "
        "(10^6 bytes).",
    )


class Run(Part):
    """Command, network, data, machine, options and durations of a run."""

    command: Text = Field(description="Command line that repeats the run.")
    model: str | None = Field(description="Name of the network, or module:callable.")
    weights: str | None = Field(description="Origin of the uncompressed network's weights, in words.")
    dataset: Dataset | None = Field(description="Data of the run; null before they were read.")
    seed: Annotated[int, Field(strict=True, ge=0, le=4294967295)] | None = Field(
        description="Seed of every random choice."
    )
    device: str | None = Field(description="Device: cpu, cuda, cuda:N, mps.")
    precision: Literal["no", "fp16", "bf16", "fp8"] | None = Field(
        description="Mixed precision of training; no is float32."
    )
    processes: Positive = Field(default=1, description="Number of processes that computed together.")
    hardware: Hardware = Field(default_factory=Hardware, description="Machine of the run.")
    git_commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}(-dirty)?$")] | None = Field(
        default=None,
        description="Commit of the code, with -dirty if the code was changed since; null outside a checkout.",
    )
    versions: Versions = Field(description="Versions of Python, seriesquant and the libraries that affect the figures.")
    options: Options | None = Field(
        description="Every option, resolved: name with underscores -> value; null if the options could not be read."
    )
    out: str | None = Field(
        default=None, description="Output folder as it was given; paths in this file are relative to it."
    )
    calibration_images: Positive | None = Field(
        default=None, description="Number of training images used for the fit and for rounding."
    )
    stages: list[Stage] = Field(default_factory=list, description="Stages in the order in which they were needed.")
    duration_s: Figure | None = Field(description="Duration of the whole run (seconds).")
