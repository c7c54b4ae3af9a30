"""Describe the layers of a variant for report.json: plan, kept terms, and errors of fit and rounding."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

from torch import Tensor, nn

from basis.least_squares import Size2d
from pipeline.models.layer_orders import LayerPlan
from pipeline.options.grid import Target
from pipeline.stages.quantize import QuantizedNetwork
from pipeline.stages.variant import VariantResult
from quant.counting import count_params
from reports.fields import CODED
from reports.model import Layer

_ERROR_DIGITS: Final = 6  # significant digits of a layer's error


def layer_rows(result: VariantResult) -> list[Layer]:
    """Describe every layer of a variant, for each of its bases, and once for each target."""
    targets = {target: each for target, each in result.quantized.items() if isinstance(target, Target)}
    rows = [_target_row(layer, target, each) for target, each in targets.items() for layer in result.network.layers]
    if not targets:
        rows = [_width_row(layer, result) for layer in result.network.layers]
    return [
        Layer.model_validate({"basis": basis, "config": result.variant.config.text, **row})
        for basis in result.variant.bases
        for row in rows
    ]


def joined_widths(layers: Iterable[Layer]) -> list[Layer]:
    """Join the entries of each layer; the dense network has two, because its fine-tuned widths are another variant."""
    merged: dict[tuple[object, ...], Layer] = {}
    for layer in layers:
        key = (layer.basis, layer.config, layer.target_mb, layer.target_drop, layer.name)
        merged[key] = layer.with_widths_of(merged[key]) if key in merged else layer
    return list(merged.values())


def count_kept(model: nn.Module, terms: Mapping[str, tuple[int, int, int]]) -> int:
    """Count the parameters of a network, with the coefficients of the kept terms in place of its kernels.

    Args:
        model: The uncompressed network.
        terms: See ``pipeline.stages.quantize.QuantizedNetwork``.
    """
    left_out = 0
    for name, (_, _, count) in terms.items():
        kernel = cast(Tensor, model.get_submodule(name).weight)
        left_out += kernel.shape[:2].numel() * (kernel.shape[2:].numel() - count)
    return count_params(model) - left_out


def _width_row(layer: LayerPlan, result: VariantResult) -> dict[str, object]:
    return {
        "name": layer.name,
        "kernel": _sizes(layer.kernel),
        "order": _sizes(layer.order),
        "status": layer.status,
        "reason": layer.reason + ("; its kernel is stored" if _stores_kernel(layer, result) else ""),
        "fit_error": _error(result.network.fit_errors.get(layer.name)),
        "rounding_error": {
            str(bits): _error(each.rounding_errors.get(layer.name)) for bits, each in result.quantized.items()
        },
        "file_bytes": {
            str(bits): each.layer_bytes[layer.name]
            for bits, each in result.quantized.items()
            if layer.name in each.layer_bytes
        }
        or None,
    }


def _stores_kernel(layer: LayerPlan, result: VariantResult) -> bool:
    """Return True if every width of a layer with an order stores its kernel instead of coefficients."""
    widths = result.quantized.values()
    return layer.order is not None and bool(widths) and all(layer.name not in each.terms for each in widths)


def _target_row(layer: LayerPlan, target: Target, quantized: QuantizedNetwork) -> dict[str, object]:
    return {
        "target_mb": target.megabytes,
        "target_drop": target.drop,
        "name": layer.name,
        "kernel": _sizes(layer.kernel),
        **_kept(layer, quantized.terms.get(layer.name)),
        "rounding_error": {CODED: _error(quantized.rounding_errors.get(layer.name))},
        "file_bytes": {CODED: quantized.layer_bytes[layer.name]} if layer.name in quantized.layer_bytes else None,
    }


def _kept(layer: LayerPlan, terms: tuple[int, int, int] | None) -> dict[str, object]:
    part = kept_part(layer, terms)
    return {"order": _sizes(part.order), "status": part.status, "reason": part.reason} | (
        {} if part.terms is None else {"terms": part.terms}
    )


@dataclass(frozen=True)
class KeptPart:
    """The part of a layer's series that a target leaves.

    Attributes:
        order: The smallest order that contains the kept terms, (nh, nw); None if no term is kept, or without series.
        terms: Number of kept terms; None without series.
        status: ``compressed``, ``full`` or ``kept``.
        reason: Explanation for the report.
    """

    order: Size2d | None
    terms: int | None
    status: str
    reason: str


def kept_part(layer: LayerPlan, terms: tuple[int, int, int] | None) -> KeptPart:
    """Describe what a target leaves of a layer.

    Args:
        layer: The layer's plan.
        terms: See ``pipeline.stages.quantize.kept_terms``; None without series.
    """
    if terms is None or layer.kernel is None:
        return KeptPart(None, None, "kept", layer.reason if layer.order is None else "stored as a kernel")
    rows, columns, count = terms
    taps = layer.kernel[0] * layer.kernel[1]
    words = {0: "every coefficient is zero", taps: "every term has a coefficient other than zero"}
    reason = words.get(count, f"{count} of {taps} terms have a coefficient other than zero")
    return KeptPart((rows, columns) if count else None, count, "full" if count == taps else "compressed", reason)


def _sizes(sizes: tuple[int, int] | None) -> list[int] | None:
    return None if sizes is None else list(sizes)


def _error(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_ERROR_DIGITS}g}")
