"""Tables that compare one run with the poster, for its report."""

from reports import text
from reports.model import Baseline, Report, Row
from reports.poster.figures import (
    BASELINE_TOLERANCE,
    POSTER_BASELINES,
    POSTER_EXTRA_BITS,
    POSTER_QUANTIZATION,
    PosterFigures,
    PosterQuantization,
    is_imagenet,
    poster_row,
)
from reports.rows import baseline, fine_tuned, unique_rows
from reports.run import Run
from reports.text import basis_name, config_name, with_settings
from reports.verdict import wilson


def poster_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw this run's Top-1 and the poster's, one line per config and basis that both have; empty if there is none.

    A run without fine-tuning is compared with the poster's Top-1 after the fit only. A run whose baseline is not the
    poster's has no table.
    """
    if not has_posters_baseline(report.run, baseline(report)):
        return ""
    tuned = fine_tuned(report)
    found: dict[tuple[str, ...], None] = {}
    for row in unique_rows(report):
        printed = None if row.is_dense or row.has_target else _poster_row_of(report, row)
        if printed is not None:
            pre = [text.points(printed.pre_top1), text.points(row.top1_pre)]
            here = row.top1_post if row.epochs else None  # runs of a merged report may differ in it
            post = [text.points(printed.post_top1), text.points(here)] if tuned else []
            found[(with_settings(row.config, row), basis_name(row.basis), *pre, *post)] = None
    headers = ["Config", "Basis", "Poster, Pre Top1", "Here, Pre Top1"]
    headers += ["Poster, Post Top1", "Here, Post Top1"] if tuned else []
    return text.draw(headers, list(found), 2, style) if found else ""


def poster_quantization_table(report: Report, style: text.Style = "markdown") -> str:
    """Draw this run's quantized rows and the poster's; empty if the poster has none of the rows.

    If the run has minifloat rows, only these are shown, because the poster's format is a minifloat. Otherwise its
    integer rows are shown with their stored bits.
    """
    pairs = _quantized_pairs(report)
    minifloats = [(row, printed) for row, printed in pairs if row.scheme == "minifloat"]
    headers = ["Bits", "Config", "Basis", "Poster, stored bits", "Here, stored bits"]
    headers += ["Poster, Quant. Top1", "Here, Quant. Top1", "Poster, size (MB)", "Here, size (MB)"]
    lines = [_quantized_line(row, printed) for row, printed in minifloats or pairs]
    return text.draw(headers, lines, (1, 2), style) if lines else ""


def has_posters_baseline(run: Run, base: Baseline) -> bool:
    """Return True if the baseline's Top-1 is the poster's, within ``BASELINE_TOLERANCE`` or the 95 % interval."""
    printed = POSTER_BASELINES.get(run.model or "")
    if base.top1 is None or printed is None:
        return False
    low, high = wilson(base.top1, run.dataset.test_images) if run.dataset else (base.top1, base.top1)
    return abs(base.top1 - printed) <= BASELINE_TOLERANCE or low <= printed <= high


def _poster_row_of(report: Report, row: Row) -> PosterFigures | None:
    model, data = report.run.model, report.run.dataset
    if model is None or data is None:
        return None
    return poster_row(model, data.name, data.classes, row.basis, row.config)


def _quantized_pairs(report: Report) -> list[tuple[Row, PosterQuantization]]:
    """Return the rows of the poster's quantization table, each with its published figures."""
    data = report.run.dataset
    if report.run.model != "resnet18" or data is None or not is_imagenet(data.name, data.classes):
        return []
    if not has_posters_baseline(report.run, baseline(report)):
        return []
    found = [(row, POSTER_QUANTIZATION.get((row.bits or 0, row.config))) for row in unique_rows(report)]
    return [(row, printed) for row, printed in found if printed is not None]


def _quantized_line(row: Row, printed: PosterQuantization) -> list[str]:
    basis = text.MISSING if row.is_dense else basis_name(row.basis)
    bits = row.bits or 0  # the poster has no rows of a target
    stored = [str(bits + POSTER_EXTRA_BITS), str(row.stored_bits)]
    tops = [text.points(printed.top1.get(row.basis)), text.points(row.top1_quant)]
    sizes = [text.megabytes(printed.size_mb), text.megabytes(row.size_mb)]
    return [str(bits), with_settings(config_name(row.config), row), basis, *stored, *tops, *sizes]
