"""Typed row of report.json: the figures of one combination of config, basis and bits or target."""

import math
import sys
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from reports.fields import Basis, Change, Count, Figure, Megabytes, Part, Percent, Probability, Settings, Text

DENSE: Final = "dense"


class Row(Part):
    """One combination of config, basis and bits or target."""

    MERGED_ONLY = ("baseline_top1", "runs", "settings")

    basis: Basis = Field(description="Basis of the layers; a dense row has the basis of the run.")
    config: Text = Field(
        description="Orders per stage, or dense, or all for a basis without orders; for a row of a target, the largest "
        "orders, or auto for no limit."
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
        description="True if fine-tuning was rolled back, because no epoch lowered the loss on held-out training "
        "images enough, or for the reason in finetune_fault; top1_post is then the Top-1 before it.",
    )
    finetune_fault: str | None = Field(
        default=None,
        description="Reason of a rollback other than the loss on held-out training images, for a row of a target.",
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
    top5_quant: Percent | None = Field(
        default=None,
        description="Top-5 of the network in the artifact (percent); null for 20 classes or fewer.",
    )
    agreement: Percent | None = Field(
        default=None, description="Share of the test images with the uncompressed network's prediction (percent)."
    )
    images_lost: Count | None = Field(
        default=None, description="Number of test images that only the uncompressed network classifies correctly."
    )
    images_gained: Count | None = Field(
        default=None, description="Number of test images that only the network in the artifact classifies correctly."
    )
    mcnemar_p: Probability | None = Field(
        default=None, description="Two-sided p-value of McNemar's exact test of images_lost against images_gained."
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
    file_bytes: dict[str, Count] | None = Field(
        default=None, description="Kind of content -> bytes in the artifact; their sum is the size of the file."
    )
    inference_ms: Figure | None = Field(
        default=None,
        description="Median time of the network in the artifact for one image, in PyTorch on the run's device "
        "(milliseconds).",
    )
    original_inference_ms: Figure | None = Field(
        default=None,
        description="The same of the uncompressed network, measured in turns with the former (milliseconds).",
    )
    onnx_inference_ms: Figure | None = Field(
        default=None,
        description="The same of the ONNX file, in onnxruntime on the CPU (milliseconds).",
    )
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
    onnx_reason: str | None = Field(default=None, description="Reason why the network has no ONNX file.")
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
