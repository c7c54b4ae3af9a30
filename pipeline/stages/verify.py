"""Reload every artifact in a fresh process and compare its logits with the measured ones.

The process gets a folder with the images and the settings of the measurement, and writes its logits there. It inherits
the working folder, the environment and the search path for modules, so that it finds a user's network. The variables of
a launcher of several processes are removed, because the process is none of its ranks.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from basis.memory import release_memory
from basis.modes import evaluating
from pipeline.artifact.loading import load_parts
from pipeline.data.dataset import Dataset
from pipeline.errors import DataError, LostProcessError, OptionsError
from pipeline.models.imported import import_folder
from pipeline.models.memory_format import settle_memory_format
from pipeline.models.outputs import select_output
from pipeline.runtime.child import child_command
from pipeline.runtime.device import placed
from pipeline.runtime.launcher import without_launch
from pipeline.runtime.products import product_precisions, set_product_precisions
from pipeline.stages.baseline import Baseline
from pipeline.stages.context import RunContext
from pipeline.stages.evaluate import EVALUATION_BATCH, images_to_reload, measure
from pipeline.store.entry import Entry
from pipeline.store.store import StageKey
from reports.files import PART, write_atomically
from reports.model import Row

logger = logging.getLogger(__name__)

_REQUEST, _IMAGES, _LOGITS = "request.json", "images.safetensors", "logits.safetensors"
_NOT_POSSIBLE, _NO_ACCESS, _DAMAGED = 2, 3, 4


def verify_artifacts(
    context: RunContext, baseline: Baseline, rows: Sequence[Row], logits: Mapping[str, Tensor]
) -> list[Row]:
    """Reload every artifact in a fresh process and store the largest difference of a logit in its row.

    A difference is no error here: the gate of the report fails with it.

    Args:
        context: The run.
        baseline: The uncompressed network.
        rows: The report's rows, whose artifacts are in the output folder.
        logits: SHA-256 of an artifact -> the measured logits of the first ``images_to_reload`` test images.

    Returns:
        The rows with ``reloaded_logits_max_abs_diff``; it stays None where no fresh process can build the network.

    Raises:
        DataError: A file cannot be loaded.
        LostProcessError: A signal or an unexpected error ended the process that reloads.
        OSError: The folder of the artifacts cannot be written.
    """
    paths = {row.sha256: context.options.out / str(row.artifact) for row in rows}

    def compute() -> Entry:
        context.progress.stage("artifacts: reload in a fresh process")
        measured = [(path, logits[str(digest)]) for digest, path in paths.items()]
        found = context.processes.on_main(
            lambda: reload_differences(measured, context.data, context.options.model, context.device)
        )
        return Entry(metadata={"differences": found})

    key = context.store.key("reload", artifacts=list(paths), network=baseline.digest, test=context.data.test.digest)
    stage = StageKey("artifacts: reload", key)
    entry, _ = context.store.once(stage, compute)
    found = entry.metadata["differences"] or [None] * len(paths)
    if any(difference is None or difference for difference in found):
        context.store.forget(stage)  # the next run tries again: a device may not repeat its bits
    differences = dict(zip(paths, found, strict=True))
    return [
        Row.model_validate(row.model_dump() | {"reloaded_logits_max_abs_diff": differences[row.sha256]}) for row in rows
    ]


def reload_differences(
    measured: Sequence[tuple[Path, Tensor]], data: Dataset, model_name: str, device: torch.device
) -> list[float] | None:
    """Load artifacts in a fresh process and compare logits.

    Args:
        measured: Artifacts and their logits of the first ``images_to_reload(data)`` test images, (images, classes).
        data: The images.
        model_name: The network. The folder of a ``module:callable`` is added to the search path.
        device: The device of the measurement.

    Returns:
        The largest difference of a logit for each artifact; see ``largest_difference``. None if the process cannot
        build the network.

    Raises:
        DataError: A file cannot be loaded.
        LostProcessError: A signal or an unexpected error ended the process.
        OSError: The folder of the artifacts cannot be written.
    """
    # Beside the artifacts: the folder for temporary files may be full, and a later run removes a file with this ending.
    with tempfile.TemporaryDirectory(prefix=".reload-", suffix=PART, dir=measured[0][0].parent) as folder:
        _write_request(Path(folder), [path.resolve() for path, _ in measured], data, device)
        source = import_folder(model_name)  # it may have left the search path
        folders = [] if source is None else [str(source)]
        command = child_command("pipeline.stages.verify:answer", folder, folders=folders)
        environment = without_launch(os.environ)
        release_memory()  # for the child process
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode == _NOT_POSSIBLE:
            logger.warning("the artifacts were not reloaded in a fresh process: %s", _last_line(done.stderr))
            return None
        if done.returncode:
            raise _error_of(done)
        found = safetensors.torch.load_file(Path(folder) / _LOGITS)
    return [largest_difference(found[str(number)], logits) for number, (_, logits) in enumerate(measured)]


def _error_of(done: subprocess.CompletedProcess[str]) -> Exception:
    if done.returncode < 0:
        return LostProcessError(
            f"artifact: the process that reloads artifacts was ended by signal {-done.returncode}, as where memory is "
            "short; the files are written"
        )
    kind = {_NO_ACCESS: OSError, _DAMAGED: DataError}.get(done.returncode, LostProcessError)
    return kind(f"artifact: reloading in a fresh process failed: {_last_line(done.stderr)}")


def answer(folder: str) -> int:
    """Load the artifacts of a request, run them, and write their logits: the program of the fresh process.

    Returns:
        The exit code: 0, 2 if the network cannot be built, 3 if a file cannot be read or written, 4 if it is damaged;
        the reason is on stderr.
    """
    try:
        _answer(Path(folder))
    except OptionsError as error:
        print(error, file=sys.stderr)
        return _NOT_POSSIBLE
    except OSError as error:
        print(error, file=sys.stderr)
        return _NO_ACCESS
    except DataError as error:
        print(error, file=sys.stderr)
        return _DAMAGED
    return 0


def _answer(folder: Path) -> None:
    request = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    set_product_precisions(request["products"])
    torch.set_deterministic_debug_mode("warn" if request["deterministic"] else "default")
    images, device = safetensors.torch.load_file(folder / _IMAGES), torch.device(request["device"])
    logits = {}
    for number, path in enumerate(request["paths"]):
        network, _, identity = load_parts(path, allow_import=True)
        select_output(network, identity.output)
        settle_memory_format(network, next(iter(images.values()))[:2])
        with torch.no_grad():
            logits[str(number)] = measure(evaluating(placed(network, device)), _batches(images, device)).logits
    # Not save_file, whose error for a full disk is no OSError.
    write_atomically(folder / _LOGITS, safetensors.torch.save(logits))


def _write_request(folder: Path, paths: Sequence[Path], data: Dataset, device: torch.device) -> None:
    batches = data.test.head(images_to_reload(data)).batches(EVALUATION_BATCH, device=device)
    images = {str(number): x.contiguous().cpu() for number, (x, _) in enumerate(batches)}
    write_atomically(folder / _IMAGES, safetensors.torch.save(images))
    request = {
        "paths": list(map(str, paths)),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "products": product_precisions(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    write_atomically(folder / _REQUEST, json.dumps(request))


def _batches(images: Mapping[str, Tensor], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over saved batches, with labels of zero in place of the unknown ones.

    The strides are those of the measured batches, because other strides can choose another kernel. For images with one
    channel, ``Tensor.to`` would keep the strides of the file.
    """
    for number in range(len(images)):
        saved = images[str(number)].to(device)
        x = torch.empty_like(saved, memory_format=torch.channels_last).copy_(saved)
        yield x, torch.zeros(len(x), device=device)


def largest_difference(found: Tensor, measured: Tensor) -> float:
    """Return the largest difference of a logit, 0 for equal values.

    Args:
        found: Logits, (images, classes).
        measured: The logits to compare them with.

    Returns:
        Infinite if the shapes differ, or if a value is not finite in one of both only.
    """
    if found.shape != measured.shape:
        return float("inf")
    if bool(torch.isclose(found, measured, rtol=0, atol=0, equal_nan=True).all()):
        return 0.0  # equal values that are not finite are no difference
    largest = float((found - measured).abs().max())
    return largest if largest == largest else float("inf")  # NaN compares with nothing


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[-1]
