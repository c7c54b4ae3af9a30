"""Typed content of report.json, schema 1; `reports.schema` generates its JSON Schema from these models.

A figure that was not measured is None. Every object refuses unknown fields. Fields that report.json did not have from
the beginning have defaults, so that reports of earlier versions can be read.
"""

import math
import sys
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from reports.fields import (
    Basis,
    Change,
    Count,
    Figure,
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
from reports.run import Run

SCHEMA_VERSION: Final = 1
DENSE: Final = "dense"
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
    params: Positive = Field(description="Number of parameters without normalization layers.")
    size_mb: Megabytes | None = Field(description="Size of its float32 file (10^6 bytes).")
    artifact: str | None = Field(description="Path of its file from this file's folder.")
    warnings: list[Text] = Field(
        default_factory=list, description="Sentences about a Top-1 that a trained network should not have."
    )
    epoch: Count | None = Field(
        default=None, description="Epoch of its training whose weights were kept; null if the weights were loaded."
    )
    top1_by_seed: dict[str, Percent | None] | None = Field(
        default=None,
        description="Only in a merged report whose seeds each trained a baseline: seed -> Top-1 (percent). "
        "top1 and size_mb are then means.",
    )


class Row(Part):
    """One combination of config, basis and bits or target."""

    MERGED_ONLY = ("baseline_top1", "runs", "settings")

    basis: Basis = Field(description="Basis of the series; a dense row has the basis of the run.")
    config: Text = Field(
        description="Orders per stage, or dense; for a row of a target, the largest orders, or auto for no limit."
    )
    bits: Annotated[int, Field(strict=True, ge=2, le=8)] | None = Field(
        description="Bits of a coefficient; for minifloats, the mantissa bits; null for a row of a target."
    )
    target_mb: Megabytes | None = Field(
        default=None, description="Target of the file's size (10^6 bytes); null without such a target."
    )
    target_drop: Annotated[float, Field(strict=True, gt=0)] | None = Field(
        default=None,
        description="Target of the loss of Top-1 on held-out training images (percentage points); null without it.",
    )
    target_met: Annotated[bool, Field(strict=True)] | None = Field(
        default=None, description="True if the row has its target size or loss; null without a target."
    )
    scheme: Literal["int", "minifloat", "stepped"] = Field(
        description="Number format of the coefficients; stepped has integers of any size and a step for each term."
    )
    stored_bits: Annotated[int, Field(strict=True, ge=2, le=16)] | None = Field(
        description="Bits of a coefficient in its number format; null for a row of a target."
    )
    bits_per_value: Figure | None = Field(
        default=None, description="Bits of the layers' integers in the file, divided by the number of integers."
    )
    backend: Literal["brevitas", "torch.ao"] | None = Field(
        description="Quantization library; null for a row of a target, which needs none."
    )
    fit: Literal["activations", "weights"] | None = Field(
        description="Target of the least-squares fit; null for the dense network, which is not approximated."
    )
    rounding: Literal["gptq", "nearest"] = Field(description="Rounding method.")
    epochs: Count = Field(description="Epochs of fine-tuning; for a row of a target, of training through the rounding.")
    qat_epochs: Count = Field(description="Epochs of quantization-aware training.")
    finetune_s: Figure | None = Field(
        default=None, description="Duration of fine-tuning when it was computed (seconds)."
    )
    finetune_undone: bool = Field(
        default=False,
        strict=True,
        description="True if no epoch of fine-tuning lowered the loss on held-out training images enough, so that it "
        "was rolled back; top1_post is then the Top-1 before it.",
    )
    finetune_epoch: Count | None = Field(
        default=None, description="Epoch of fine-tuning whose weights were kept, 0 for the weights before it."
    )
    finetune_loss_before: Figure | None = Field(
        default=None, description="Mean loss on held-out training images before fine-tuning."
    )
    finetune_loss_after: Figure | None = Field(
        default=None, description="Mean loss on held-out training images with the kept weights."
    )
    qat_s: Figure | None = Field(
        default=None, description="Duration of quantization-aware training when it was computed (seconds)."
    )
    qat_undone: bool = Field(
        default=False,
        strict=True,
        description="True if no epoch of quantization-aware training lowered the loss on held-out training images "
        "enough, so that it was rolled back.",
    )
    qat_epoch: Count | None = Field(
        default=None,
        description="Epoch of quantization-aware training whose weights were kept, 0 for the weights before it.",
    )
    qat_loss_before: Figure | None = Field(
        default=None, description="Mean loss on held-out training images before quantization-aware training."
    )
    qat_loss_after: Figure | None = Field(
        default=None, description="Mean loss on held-out training images after it, with the kept weights."
    )
    top1_pre: Percent | None = Field(description="Top-1 after the fit; null for the dense network (percent).")
    top1_post: Percent | None = Field(description="Top-1 after fine-tuning (percent).")
    top1_quant: Percent | None = Field(description="Top-1 of the network in the artifact (percent).")
    delta_post: Change | None = Field(description="top1_post minus the baseline's Top-1 (percentage points).")
    delta_quant: Change | None = Field(description="top1_quant minus top1_post (percentage points).")
    delta_baseline: Change | None = Field(
        default=None, description="top1_quant minus the baseline's Top-1 (percentage points)."
    )
    params: Count = Field(
        description="Number of parameters, with coefficients in place of kernels, without normalization."
    )
    params_percent: Figure | None = Field(description="Share of the baseline's params (percent).")
    compressible_params: Count | None = Field(
        default=None, description="Number of parameters that the method can compress."
    )
    poster_size_mb: Megabytes | None = Field(
        description="Size by the poster's formula: params x (bits + 8) / 8 (10^6 bytes); null without bits."
    )
    size_mb: Megabytes | None = Field(description="Size of the written artifact (10^6 bytes).")
    artifact: Annotated[str, Field(pattern=r"^[^/].*\.safetensors$")] | None = Field(
        description="Path of the artifact from this file's folder."
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(description="SHA-256 of the artifact.")
    reloaded_logits_max_abs_diff: Figure | None = Field(
        default=None,
        description="Largest difference of a logit after a fresh process reloaded the artifact; 0 if none differs.",
    )
    onnx: Annotated[str, Field(pattern=r"^[^/].*\.onnx$")] | None = Field(
        default=None, description="Path of the ONNX file from this file's folder."
    )
    onnx_size_mb: Megabytes | None = Field(default=None, description="Size of the written ONNX file (10^6 bytes).")
    onnx_top1: Percent | None = Field(default=None, description="Top-1 of the ONNX file in onnxruntime (percent).")
    onnx_differing_predictions: Count | None = Field(
        default=None, description="Number of test images with another prediction than the artifact's."
    )
    onnx_bits: Annotated[int, Field(strict=True, ge=2)] | None = Field(
        default=None, description="Bits of a stored value in the ONNX file."
    )
    onnx_reason: str | None = Field(default=None, description="Reason why there is no ONNX file.")
    baseline_top1: Percent | None = Field(
        default=None,
        description="Only in a merged report whose runs have different ones: Top-1 of the uncompressed network of the "
        "row's run (percent).",
    )
    runs: Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None, description="Only in a merged report: names in sources of the runs that made the row."
    )
    settings: Settings | None = Field(
        default=None, description="Only in a merged report: settings that distinguish these runs from the others."
    )

    @field_validator("reloaded_logits_max_abs_diff", mode="before")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        """Store the largest float for NaN and infinity, because None means that no difference was measured."""
        return sys.float_info.max if isinstance(value, float) and not math.isfinite(value) else value

    @property
    def is_dense(self) -> bool:
        """True for the network without series, which is only quantized."""
        return self.config == DENSE

    @property
    def has_target(self) -> bool:
        """True for a row of a target instead of a fixed width."""
        return self.bits is None


class Layer(Part):
    """One layer of one combination of config and basis, for each target if it has any."""

    MERGED_ONLY = ("runs", "settings")

    basis: Basis = Field(description="Basis of the series; a dense row has the basis of the run.")
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
    runs: Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None, description="Only in a merged report: names in sources of the runs that have the layer."
    )
    settings: Settings | None = Field(
        default=None, description="Only in a merged report: settings that distinguish these runs from the others."
    )


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


class Kernels(Part):
    """One filter slice and its fits, for the plot."""

    layer: str = Field(description="Name of the filter's layer.")
    original: Matrix = Field(description="Filter as trained.")
    fits: dict[str, Matrix] = Field(description="Basis -> the filter reconstructed from its series.")
    orders: Pair = Field(description="Number of terms kept per axis.")


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
