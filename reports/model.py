"""Typed content of report.json, schema 1; ``reports.schema`` generates its JSON Schema from these models.

A figure that was not measured is None. Every object refuses unknown fields. Fields that report.json did not have from
the beginning have defaults, so that reports of earlier versions can be read.
"""

from typing import Annotated, Final, Literal

from pydantic import Field

from reports.fields import (
    Basis,
    Count,
    Figure,
    LayerBytes,
    Matrix,
    Megabytes,
    Pair,
    Part,
    Percent,
    Positive,
    RoundingErrors,
    Settings,
    Text,
)
from reports.row import DENSE as DENSE
from reports.row import Row as Row
from reports.run import Run

SCHEMA_VERSION: Final = 1
EXIT_DONE: Final = 0
EXIT_GATE: Final = 3


class Error(Part):
    """Error that ended a run."""

    type: Text = Field(description="Name of the exception's class.")
    message: str = Field(
        min_length=1, pattern=r"^[^\n]*$", description="One sentence: the problem, the value received, what is allowed."
    )
    exit_code: Literal[1, 2, 4, 5, 129, 130, 143] = Field(description="Exit code of the process.")


class Baseline(Part):
    """Uncompressed network."""

    MERGED_ONLY = ("top1_by_seed",)

    top1: Percent | None = Field(description="Top-1 of the uncompressed network (percent).")
    top5: Percent | None = Field(
        default=None, description="Top-5 of the uncompressed network (percent); null for 20 classes or fewer."
    )
    params: Positive = Field(description="Number of parameters without normalization layers.")
    size_mb: Megabytes | None = Field(description="Size of its float32 file (10^6 bytes).")
    artifact: str | None = Field(description="Path of its file from this file's folder.")
    warnings: list[Text] = Field(
        default_factory=list, description="Sentences about a Top-1 that a trained network should not have."
    )
    epoch: Count | None = Field(
        default=None, description="Epoch of its training whose weights were kept; null if the weights were loaded."
    )
    digest: Text | None = Field(
        default=None, description="SHA-256 of its modules and tensors; equal networks of other names have the same."
    )
    top1_by_seed: dict[str, Percent | None] | None = Field(
        default=None,
        description="Only in a merged report whose seeds each trained a baseline: seed -> Top-1 (percent). "
        "top1 and size_mb are then means.",
    )


class Layer(Part):
    """One layer of one combination of config and basis, for each target if it has any."""

    MERGED_ONLY = ("runs", "settings")

    basis: Basis = Field(description="Basis of the layers; a dense row has the basis of the run.")
    config: str = Field(description="Config of the rows that the layer belongs to.")
    target_mb: Megabytes | None = Field(default=None, description="Target size of the row that the layer belongs to.")
    target_drop: Figure | None = Field(default=None, description="Target loss of the row that the layer belongs to.")
    name: str = Field(description="Name of the layer in the network.")
    kernel: Pair | None = Field(description="Height and width of the kernel; null if the layer is no convolution.")
    order: Pair | None = Field(
        description="Number of terms kept per axis; null if the layer is no series. For a target, the smallest order "
        "that contains the terms with a coefficient other than zero."
    )
    terms: Count | None = Field(
        default=None,
        description="Number of terms with a coefficient other than zero; null without a target or a series.",
    )
    status: Text = Field(description="Treatment of the layer, in a word.")
    reason: str | None = Field(description="Reason for the treatment.")
    fit_error: Figure | None = Field(default=None, description="Relative error of the layer's output after the fit.")
    rounding_error: RoundingErrors | None = Field(
        default=None, description="Bits, or coded for a target -> relative error of the output after rounding."
    )
    file_bytes: LayerBytes | None = Field(
        default=None, description="Bits, or coded for a target -> bytes of its integers and scales in the artifact."
    )
    runs: Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None, description="Only in a merged report: names in sources of the runs that have the layer."
    )
    settings: Settings | None = Field(
        default=None, description="Only in a merged report: settings that distinguish these runs from the others."
    )

    def with_widths_of(self, other: "Layer") -> "Layer":
        """Return the layer with the other's rounding errors and sizes put before its own, which take precedence."""
        known = [each.rounding_error for each in (other, self) if each.rounding_error is not None]
        errors = {width: value for each in known for width, value in each.items()} if known else None
        sizes = {**(other.file_bytes or {}), **(self.file_bytes or {})}
        return self.model_copy(update={"rounding_error": errors, "file_bytes": sizes or None})


class Gate(Part):
    """Limits of a run and the rows that exceed them."""

    max_drop: Figure | None = Field(description="Points of Top-1 that a row may lose; null sets no limit.")
    max_size_mb: Megabytes | None = Field(
        default=None, description="Largest allowed size of an artifact (10^6 bytes); null sets no limit."
    )
    targets: Count = Field(default=0, description="Number of rows with a target of their own, which limits them too.")
    passed: Annotated[bool, Field(strict=True)] | None = Field(
        description="False if a row failed; otherwise true if a limit was set and checked, else null."
    )
    failures: list[Text] = Field(
        default_factory=list, description="One sentence for each row that failed, with the amount of each excess."
    )

    @property
    def exit_code(self) -> Literal[0, 3]:
        """Exit code of a process whose report has this gate."""
        return EXIT_GATE if self.passed is False else EXIT_DONE


class Slice(Part):
    """One filter slice and its fits."""

    layer: str = Field(description="Name of the filter's layer.")
    original: Matrix = Field(description="Filter as trained.")
    fits: dict[str, Matrix] = Field(
        description="Basis -> the filter reconstructed from its series or parametric family."
    )
    orders: Pair | None = Field(
        description="Number of terms kept per axis of the series; null if all fits are of parametric families."
    )


class Kernels(Slice):
    """The filter slice of the plot, and slices of other layers."""

    further: list[Slice] = Field(default_factory=list, description="One slice of each of a few other layers.")


class Source(Part):
    """One run of a merged report."""

    name: Text = Field(description="Path of the run's folder from this file's folder.")
    settings: Settings = Field(description="Settings that distinguish this run from the others.")
    run: Run = Field(description="How the run was made.")
    baseline: Baseline = Field(description="Uncompressed network of the run.")
    gate: Gate = Field(description="Limits of the run.")


class Report(Part):
    """Content of report.json."""

    MERGED_ONLY = ("sources",)

    schema_version: Literal[1] = Field(description="Version of this schema.")
    status: Literal["done", "failed", "interrupted"] = Field(
        default="done", description="done: every row was made, whether or not the gate passed."
    )
    error: Error | None = Field(default=None, description="Error that ended a run that is not done.")
    exit_code: Literal[0, 1, 2, 3, 4, 5, 129, 130, 143] = Field(
        default=0, description="Exit code of the process; 3 is a failed gate."
    )
    run: Run = Field(description="How the run was made.")
    baseline: Baseline | None = Field(description="Uncompressed network; null if the run failed.")
    rows: list[Row] = Field(description="One row for each combination of config, basis and bits or target.")
    layers: list[Layer] = Field(description="Layers of each combination of config and basis.")
    gate: Gate = Field(description="Limits of the run, and the rows that exceed them.")
    kernels: Kernels | None = Field(default=None, description="One filter slice and its fits, for the plot.")
    sources: Annotated[list[Source], Field(min_length=1)] | None = Field(
        default=None, description="Only in a merged report: the runs that were merged."
    )
