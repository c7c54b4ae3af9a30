"""``seriesquant evaluate``: measure an artifact's Top-1, and its agreement with another artifact."""

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tabulate import tabulate

from pipeline.cli.arguments import (
    FILE_ALLOWED,
    Action,
    AllowImport,
    Device,
    File,
    check_device,
    input_path,
    parse_number,
    read_arguments,
)
from pipeline.cli.output import print_result
from pipeline.failure import EXIT_DONE
from pipeline.options.paths import parse_argument
from pipeline.runtime.imports import import_libraries

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.data.dataset import Dataset
    from pipeline.stages.evaluate import Evaluation

logger = logging.getLogger(__name__)

SUMMARY = """Measure an artifact's Top-1 on test images, and with --against its agreement with another artifact."""

Against = Annotated[str | None, typer.Option(metavar="FILE2", help="another artifact", show_default=False)]
Data = Annotated[str, typer.Option(help="digits, an .npz file, or a folder of images or CIFAR")]
Limit = Annotated[str | None, typer.Option(metavar="N", help="use N test images", show_default=False)]
Workers = Annotated[str, typer.Option(metavar="N", help="processes that load images")]


def read(argv: list[str], program: str) -> Action | None:
    """Parse the command's arguments.

    Raises:
        OptionsError: An argument is wrong, missing or unknown.
    """

    def given(
        file: File,
        data: Data = "digits",
        against: Against = None,
        limit_test: Limit = None,
        device: Device = "auto",
        workers: Workers = "2",
        allow_import: AllowImport = False,
    ) -> Action:
        files = [input_path("FILE", file)]
        if against is not None:
            files.append(input_path("--against", against))
        return partial(
            _execute,
            files,
            parse_argument("--data", data),
            None if limit_test is None else parse_number("--limit-test", limit_test, int, 1),
            check_device(device),
            parse_number("--workers", workers, int, 0),
            allow_import=allow_import,
        )

    action: Action | None = read_arguments(given, argv, program, SUMMARY, FILE_ALLOWED)
    return action


def _execute(
    files: list[Path], source: str, limit: int | None, device: str, workers: int, *, allow_import: bool
) -> int:
    import_libraries("pipeline.artifact.loading", "pipeline.stages.evaluate")
    from pipeline.artifact import open_artifact
    from pipeline.artifact.loading import require_builder
    from pipeline.data import load_dataset
    from pipeline.runtime.device import make_accelerator  # only now: it imports torch

    headers = [open_artifact(file)[0] for file in files]  # before the data are read, which may take minutes
    for header in headers:
        require_builder(header)
    kinds = [(header.image_size, header.classes) for header in headers]
    read = {
        (size, classes): load_dataset(
            source, limit_test=limit, workers=workers, image_size=size, classes=classes, test_only=True
        )
        for size, classes in set(kinds)
    }
    place = make_accelerator(device).device
    results = [_evaluated(file, read[kind], place, allow_import) for file, kind in zip(files, kinds, strict=True)]
    for note in dict.fromkeys(note for data in read.values() for note in data.notes):
        logger.info("data: %s", note)
    count = results[0].total
    rows = [(file, f"{each.top1:.2f}", each.correct, each.total) for file, each in zip(files, results, strict=True)]
    lines = [tabulate(rows, ("File", "Top-1 (%)", "Right", "Images"), floatfmt=".2f")]
    if len(results) > 1:
        first, second = (each.logits.argmax(dim=1) for each in results)
        same = int((first == second).sum())
        lines.append(f"Agreement: {100 * same / count:.2f} %, {same} of {count} predictions are the same")
    print_result("\n\n".join(lines))
    return EXIT_DONE


def _evaluated(file: Path, data: "Dataset", device: "torch.device", allow_import: bool) -> "Evaluation":
    import torch

    from pipeline.artifact import load, open_artifact
    from pipeline.artifact.header import class_names
    from pipeline.data.dataset import Normalization
    from pipeline.errors import DataError
    from pipeline.models import check_forward
    from pipeline.models.memory_format import settle_memory_format
    from pipeline.models.outputs import select_output
    from pipeline.stages.evaluate import evaluate
    from pipeline.stages.inputs import check_channels

    header, _ = open_artifact(file)
    if data.classes > header.classes:
        raise DataError(
            f"evaluate: {file} has {header.classes} classes, but the data has {data.classes}; allowed: data of the "
            "classes that the network was trained on"
        )
    normalization = Normalization(header.mean, header.std)
    check_channels(data, normalization.channels, header.model)
    network = select_output(load(file, allow_import=allow_import), header.output)
    check_forward(network, header.classes, data.image_size, normalization.channels)
    _match_classes(network, class_names(header), data.class_names, file)
    settle_memory_format(network, torch.zeros(2, normalization.channels, *data.image_size))
    return evaluate(network, data.test.normalized(normalization), device=device)


def _match_classes(network: "nn.Module", own: tuple[str, ...], wanted: tuple[str, ...], file: Path) -> None:
    """Put a network's outputs in the order of the data's classes, which may be some of its own, by a forward hook."""
    if own[: len(wanted)] == wanted:
        return
    if len(set(own)) < len(own) or not set(wanted) <= set(own):
        logger.warning("the classes of %s and of the data have different names; they are matched by number", file)
        return
    order = [*map(own.index, wanted), *(place for place, name in enumerate(own) if name not in wanted)]
    network.register_forward_hook(lambda module, inputs, logits: logits[:, order])
