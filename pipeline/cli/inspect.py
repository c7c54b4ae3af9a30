"""``seriesquant inspect``: show an artifact's header, its layers, their terms and its bytes by kind."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from pipeline.cli.arguments import FILE_ALLOWED, Action, File, input_path, read_arguments
from pipeline.cli.output import print_result
from pipeline.failure import EXIT_DONE
from pipeline.runtime.imports import import_libraries

if TYPE_CHECKING:
    from pipeline.artifact.record import LayerRecord
    from pipeline.artifact.summary import Summary
    from quant.schemes import StoredTensor

SUMMARY = "Show an artifact's header, its layers and its bytes by kind. No network is built."
_MOST_NAMES = 10


def read(argv: list[str], program: str) -> Action | None:
    """Parse the command's arguments.

    Raises:
        OptionsError: An argument is wrong, missing or unknown.
    """

    def given(file: File) -> Action:
        return partial(_execute, input_path("FILE", file))

    action: Action | None = read_arguments(given, argv, program, SUMMARY, FILE_ALLOWED)
    return action


def _execute(file: Path) -> int:
    import_libraries("pipeline.artifact.summary")  # only now: it imports torch
    from pipeline.artifact.summary import summarize

    summary = summarize(file)
    tables = (_header_table(file, summary), _layer_table(summary), _term_table(summary), _kind_table(summary))
    print_result("\n\n".join(table for table in tables if table))
    return EXIT_DONE


def _header_table(file: Path, summary: "Summary") -> str:
    from pipeline.artifact.header import class_names

    header = summary.header
    builder = ", ".join([header.builder, *(f"{name}={value}" for name, value in header.arguments.items())])
    names = class_names(header)[:_MOST_NAMES]
    more = ", ..." if header.classes > len(names) else ""
    rows = [
        ("file", file),
        ("format version", header.format_version),
        ("model", header.model),
        ("built by", builder),
        ("classes", f"{header.classes}: {', '.join(names)}{more}"),
        ("input", f"x / 255, mean {list(header.mean)}, std {list(header.std)}"),
        ("image size", "{} x {}".format(*header.image_size)),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _layer_table(summary: "Summary") -> str:
    """Return a table of one line per layer; empty if no layer is quantized."""
    from pipeline.models.layer_orders import shape_text

    heads = ("Layer", "Basis", "Kernel", "Order", "Kept", "Scheme", "Shape", "Bits/value", "Bytes", "Scale bytes")
    rows = []
    for layer in summary.record.layers:
        values, bits = layer.values.integers, summary.layers[layer.name]
        figures = (f"{bits.integers / values.numel():.3f}", f"{bits.integers / 8:.1f}", f"{bits.scales / 8:.1f}")
        kept, scheme = _kept_text(layer), _scheme_text(layer.values)
        series = (layer.basis or "-", shape_text(layer.kernel), shape_text(layer.order))
        rows.append((layer.name, *series, kept, scheme, shape_text(values.shape), *figures))
    # Numbers are not parsed: a layer named 1.10 must not become 1.1.
    align = ("left",) * 7 + ("right",) * 3
    return tabulate(rows, heads, disable_numparse=True, colalign=align) if rows else ""


def _scheme_text(values: "StoredTensor") -> str:
    from quant.stepped import SteppedTensor

    return values.format.scheme if isinstance(values, SteppedTensor) else f"{values.format.scheme} {values.format.bits}"


def _kept_text(layer: "LayerRecord") -> str:
    """Return the order of the terms other than zero, or their number if they do not form an order."""
    if layer.order is None:
        return "-"
    kept = (layer.values.integers != 0).any(0).any(0)
    rows, columns, count = int(kept.any(1).sum()), int(kept.any(0).sum()), int(kept.sum())
    return f"{rows}x{columns}" if count == rows * columns and bool(kept[:rows, :columns].all()) else f"{count} terms"


def _term_table(summary: "Summary") -> str:
    """Return a table of one line per row of terms of each series; empty without series."""
    rows = []
    for layer in summary.record.layers:
        if layer.basis is None or layer.order is None:
            continue
        sizes, count = summary.layers[layer.name].terms, layer.values.integers.shape[:2].numel()
        nonzero = (layer.values.integers != 0).sum((0, 1)).tolist()
        if len(sizes) != layer.order[0] * layer.order[1]:
            continue
        for row in range(layer.order[0]):
            bits = sizes[row * layer.order[1] : (row + 1) * layer.order[1]]
            texts = [f"{size / count:.2f} ({number})" for size, number in zip(bits, nonzero[row], strict=True)]
            rows.append((layer.name if row == 0 else "", row, "  ".join(texts)))
    heads = ("Layer", "Row", "Bits/value of each term (values other than zero)")
    return tabulate(rows, heads, disable_numparse=True) if rows else ""


def _kind_table(summary: "Summary") -> str:
    rows = [(kind, size, f"{100 * size / summary.size:.2f}") for kind, size in summary.kinds.items()]
    return tabulate([*rows, ("whole file", summary.size, "100.00")], ("Kind", "Bytes", "%"), floatfmt=".2f")
