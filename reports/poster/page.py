"""Page with the poster's three tables: each printed figure beside the measured one, with the difference."""

from collections.abc import Iterator, Sequence

from reports import text
from reports.merging.reading import Source
from reports.poster.commands import IMAGENET_FOLDER, Commands
from reports.poster.figures import SOURCE
from reports.poster.measured import Measurement, measurements
from reports.poster.printed import FAMILY, NOTES, TITLES, Figure, Printed, quantized_rows, top1_rows
from reports.text import MISSING, model_name, plain

FILE = "poster.md"

_INTRODUCTION = f"""The printed figures are those of {SOURCE}. "Here" is the measured figure, and "diff." the measured
minus the printed one. Top-1 and shares of parameters are in percent, differences of Top-1 in points, parameters in
10^6, sizes in 10^6 bytes. A size here is that of the file; the poster's follows from the number of parameters. A dash
stands where the poster prints nothing. A printed figure that was not measured has an empty cell beside it, and the last
column has the number of the [command](#commands) that fills it.

The poster fits the coefficients to the weights (`--fit weights`) and fine-tunes for five epochs. "Settings" lists fit,
seed and epochs of the measured row, and in the quantization table the number format and the rounding. Further settings
are listed where runs differ in them. Pre Top1 is measured after the fit, Post Top1 after fine-tuning. A run without
fine-tuning has no Post Top1. "Parameters alone" is a run whose baseline is not the poster's, such as one from random
weights: it fills only the numbers of parameters."""

_COMMANDS = f"""`$SERIESQUANT_DATA` is the folder of CIFAR-10 and the poster's checkpoints. `{IMAGENET_FOLDER}` is
an image folder of ImageNet whose name contains `imagenet` or `ilsvrc`. Pass the folders of the new runs to `seriesquant
poster`, too. With `--epochs 0` a command fills Pre Top1 alone, without fine-tuning."""


def poster_page(sources: Sequence[Source]) -> str:
    """Return the page in markdown.

    Args:
        sources: Runs for which ``reports.poster.measured.unused_reason`` is None; all cells are empty without any.

    Raises:
        PosterError: Two runs with equal settings differ in a figure.
    """
    found, commands = measurements(sources), Commands()
    parts = ["# The poster's tables, printed and measured", _INTRODUCTION, "## CIFAR-10"]
    for model in ("resnet20", "resnet32"):
        parts += [f"### {model_name(model)}", *_table(model, top1_rows(model), found, commands)]
    parts.append("## ImageNet")
    for model in ("resnet18", "convnext_tiny"):
        parts += [f"### {model_name(model)}", *_table(model, top1_rows(model), found, commands)]
    parts += ["## Quantization of ResNet-18 on ImageNet", *_table("resnet18", quantized_rows(), found, commands)]
    parts += ["## Commands", *_commands(commands)]
    if sources:
        parts += ["## Runs", *_runs(sources)]
    return "\n\n".join(parts) + "\n"


def _table(model: str, rows: Sequence[Printed], found: Sequence[Measurement], commands: Commands) -> list[str]:
    """Return the table of a network and the notes on its printed figures."""
    quantized = rows[0].bits is not None
    figures = [name for name in TITLES if any(name in row.figures for row in rows)]
    headers = ["Bits"] if quantized else []
    headers += ["Method", "Config"]
    headers += [f"{TITLES[name]}, {column}" for name in figures for column in ("printed", "here", "diff.")]
    headers += ["Settings", "Command"]
    lines = [line for row in rows for line in _lines(model, row, figures, found, commands)]
    left = range(1, 3) if quantized else range(2)
    drawn = text.draw(headers, lines, (*left, len(headers) - 2))
    notes = [f"({letter}) {NOTES[letter]}" for letter in NOTES if any(letter in row.notes for row in rows)]
    return [drawn, "\n".join(f"- {note}" for note in notes)] if notes else [drawn]


def _lines(
    model: str, row: Printed, figures: Sequence[Figure], found: Sequence[Measurement], commands: Commands
) -> Iterator[list[str]]:
    """Yield a line for each measurement of a printed row, or one without figures if there is none."""
    marks = f" ({','.join(row.notes)})" if row.notes else ""
    head = [str(row.bits)] if row.bits else []
    head += [row.method, (row.config if row.bases and row.config != FAMILY else MISSING) + marks]
    matching: list[Measurement | None] = [each for each in found if each.fills(model, row)]
    for each in matching or [None]:
        here = each.figures if each else {}
        cells = [cell for name in figures for cell in _cells(name, row.figures.get(name), here.get(name))]
        filled = all(name in here for name in row.figures)
        fit, seed = (each.fit, each.seed) if each else (None, None)
        number = "" if filled else str(commands.number(model, row, fit, seed))
        yield [*head, *cells, each.settings if each else "", number]


def _cells(name: Figure, printed: float | None, here: float | None) -> list[str]:
    if printed is None:
        return [MISSING] * 3
    if here is None:
        return [_shown(name, printed), "", ""]
    return [_shown(name, printed), _shown(name, here), text.signed(here - printed)]


def _shown(name: Figure, value: float) -> str:
    if name in ("delta", "quantized_delta"):
        return text.signed(value)
    return text.megabytes(value) if name == "size" else text.points(value)


def _commands(commands: Commands) -> list[str]:
    texts = commands.texts()
    if not texts:
        return ["Every printed figure has a measured one."]
    return [_COMMANDS, *(f"{number}.\n\n```\n{command}\n```" for number, command in enumerate(texts, start=1))]


def _runs(sources: Sequence[Source]) -> list[str]:
    """Return the table of the runs, with their durations, and their commands.

    A stage that was read from the store keeps the duration of when it was computed.
    """
    headers = ["Run", "Minutes", "Minutes of its stages", "Device", "Threads", "Precision", "Commit"]
    lines = [
        [
            source.path.resolve().name,
            _minutes(source.run.duration_s),
            _minutes(sum(stage.seconds or 0 for stage in source.run.stages)),
            plain(source.run.device),
            text.count(source.run.hardware.threads),
            plain(source.run.precision),
            plain(source.run.git_commit and source.run.git_commit[:7]),
        ]
        for source in sources
    ]
    commands = "\n".join(source.run.command for source in sources)
    return [text.draw(headers, lines, (0, 3, 5, 6)), f"```\n{commands}\n```"]


def _minutes(seconds: float | None) -> str:
    return MISSING if seconds is None else f"{seconds / 60:.1f}"
