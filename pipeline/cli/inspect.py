"""``seriesquant inspect``: show an artifact's header, its layers and its bytes by kind."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from pipeline.cli.arguments import FILE_ALLOWED, Action, File, read_arguments
from pipeline.cli.output import print_result
from pipeline.failure import EXIT_DONE

if TYPE_CHECKING:
    from pipeline.artifact.header import LayerEntry
    from pipeline.artifact.summary import Summary

SUMMARY = "Show an artifact's header, its layers and its bytes by kind. No network is built."
_MOST_NAMES = 10


def read(argv: list[str], program: str) -> Action | None:
    """Parse the command's arguments.

    Raises:
        OptionsError: An argument is wrong, missing or unknown.
    """

    def given(file: File) -> Action:
        return partial(_execute, file)

    action: Action | None = read_arguments(given, argv, program, SUMMARY, FILE_ALLOWED)
    return action


def _execute(file: Path) -> int:
    from pipeline.artifact.summary import summarize  # only now: it imports torch

    summary = summarize(file)
    tables = (_header_table(file, summary), _layer_table(summary.layers), _kind_table(summary))
    print_result("\n\n".join(table for table in tables if table))
    return EXIT_DONE


def _header_table(file: Path, summary: "Summary") -> str:
    header = summary.header
    arguments = ", ".join(f"{name}={value}" for name, value in header.arguments.items())
    names = header.class_names[:_MOST_NAMES]
    more = ", ..." if header.classes > len(names) else ""
    rows = [
        ("file", file),
        ("format version", header.format_version),
        ("model", header.model),
        ("built by", f"{header.builder}, {arguments}"),
        ("classes", f"{header.classes}: {', '.join(names)}{more}"),
        ("input", f"RGB / 255, mean {list(header.mean)}, std {list(header.std)}"),
        ("image size", "{} x {}".format(*header.image_size)),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _layer_table(layers: Sequence["LayerEntry"]) -> str:
    """Return a table of one line per layer; empty if no layer is quantized."""
    from pipeline.artifact.summary import layer_bytes
    from pipeline.models.layer_orders import shape_text

    heads = ("Layer", "Basis", "Order", "Kernel", "Scheme", "Bits", "Shape", "Code bytes", "Scale bytes")
    rows = [
        (
            layer.name,
            layer.basis or "-",
            shape_text(layer.order),
            shape_text(layer.kernel),
            layer.scheme,
            layer.bits,
            shape_text(layer.shape),
            *layer_bytes(layer),
        )
        for layer in layers
    ]
    # Numbers are not parsed: a layer named 1.10 must not become 1.1.
    align = ("left",) * 5 + ("right",) + ("left",) + ("right",) * 2
    return tabulate(rows, heads, disable_numparse=True, colalign=align) if rows else ""


def _kind_table(summary: "Summary") -> str:
    rows = [(kind, size, f"{100 * size / summary.size:.2f}") for kind, size in summary.kinds.items()]
    return tabulate([*rows, ("whole file", summary.size, "100.00")], ("Kind", "Bytes", "%"), floatfmt=".2f")
