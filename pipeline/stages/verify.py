"""Proof that artifacts give the logits that were measured: a fresh process loads them and runs the same images.

The process gets a folder with the images and the conditions of the measurement, and leaves the logits there. It
inherits the working folder, the environment and the search path for modules, so that it finds a user's network; what a
launcher of several processes put into the environment is taken out, as it is none of these.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from pipeline.artifact import load
from pipeline.data.dataset import Dataset
from pipeline.errors import DataError, OptionsError
from pipeline.options.options import Options
from pipeline.runtime.launcher import without_launch
from pipeline.runtime.share import WHOLE, Share
from pipeline.stages.context import Bench
from pipeline.stages.evaluate import EVALUATION_BATCH, evaluate, images_to_reload
from pipeline.stages.report import VariantResult
from pipeline.store.entry import Entry
from pipeline.store.store import Step

logger = logging.getLogger(__name__)

_REQUEST, _IMAGES, _LOGITS = "request.json", "images.safetensors", "logits.safetensors"
_NOT_POSSIBLE = 2
_CODE = (
    "import sys; sys.path[:] = sys.argv[2:]; from pipeline.stages.verify import answer; sys.exit(answer(sys.argv[1]))"
)


@dataclass(frozen=True)
class Measured:
    """An artifact, its SHA-256, and what its network said of the test images: float32, (images, classes)."""

    sha256: str
    path: Path
    logits: Tensor


def reload_differences(
    measured: Sequence[Measured], data: Dataset, model_name: str, device: torch.device
) -> list[float] | None:
    """Load artifacts in a fresh process and compare logits.

    Args:
        measured: Artifacts and their logits of the first ``images_to_reload(data)`` test images.
        data: The images.
        model_name: The network; a module that was imported for it is found again, wherever the working folder is now.
        device: Where the logits were measured.

    Returns:
        The largest difference of a logit for each artifact, or None where no such process can build the network.

    Raises:
        DataError: A file could not be loaded, or gives other logits.
    """
    with tempfile.TemporaryDirectory(prefix="seriesquant-") as folder:
        _ask(Path(folder), [each.path.resolve() for each in measured], data, device)
        command = [sys.executable, "-P", "-c", _CODE, folder, *sys.path, *_module_folder(model_name)]
        alone = without_launch(os.environ)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
        if done.returncode == _NOT_POSSIBLE:
            logger.warning("the artifacts were not reloaded in a fresh process: %s", _last_line(done.stderr))
            return None
        if done.returncode:
            raise DataError(f"artifact: reloading in a fresh process failed: {_last_line(done.stderr)}")
        found = safetensors.torch.load_file(Path(folder) / _LOGITS)
    differences = [float((found[str(i)] - each.logits).abs().max()) for i, each in enumerate(measured)]
    for each, difference in zip(measured, differences, strict=True):
        if difference != 0.0:
            path = each.path
            raise DataError(f"artifact: {path} reloads with logits {difference:g} from the measured ones; allowed: 0")
    return differences


def answer(folder: str) -> int:
    """What the fresh process does: load, run, and write the logits.

    Returns:
        The exit code: 0, or 2 where the network cannot be built; the reason is then on stderr.
    """
    request = json.loads((Path(folder) / _REQUEST).read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    torch.set_deterministic_debug_mode("warn" if request["deterministic"] else "default")
    images = _SavedImages(safetensors.torch.load_file(Path(folder) / _IMAGES))
    logits = {}
    for number, path in enumerate(request["paths"]):
        try:
            network = load(path, allow_import=True)
        except OptionsError as error:
            print(error, file=sys.stderr)
            return _NOT_POSSIBLE
        logits[str(number)] = evaluate(network, images, device=torch.device(request["device"])).logits
    safetensors.torch.save_file(logits, Path(folder) / _LOGITS)
    return 0


def _ask(folder: Path, paths: Sequence[Path], data: Dataset, device: torch.device) -> None:
    batches = data.test.head(images_to_reload(data)).batches(EVALUATION_BATCH, device=device)
    images = {str(number): x.contiguous().cpu() for number, (x, _) in enumerate(batches)}
    safetensors.torch.save_file(images, folder / _IMAGES)
    request = {
        "paths": list(map(str, paths)),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    (folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")


class _SavedImages:
    """Batches from a file, with labels that say nothing."""

    def __init__(self, batches: dict[str, Tensor]) -> None:
        self._batches = [batches[str(number)] for number in range(len(batches))]

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    def batches(
        self,
        batch_size: int,
        *,
        device: torch.device,
        seed: int | None = None,
        augment: bool = False,
        start: int = 0,
        share: Share = WHOLE,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for x in self._batches[start:]:
            yield x.to(device, memory_format=torch.channels_last), torch.zeros(len(x), device=device)


def _module_folder(model_name: str) -> list[str]:
    """The folder in which ``module:callable`` was found, which need no longer be on the search path."""
    module_name, colon, _ = model_name.partition(":")
    file = getattr(sys.modules.get(module_name), "__file__", None) if colon else None
    if file is None:
        return []
    levels = module_name.count(".") + (Path(file).stem == "__init__")
    return [str(Path(file).absolute().parents[levels])]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason was given"])[-1]


def _check_reload(results: list[VariantResult], measured: list[Measured], options: Options, bench: Bench) -> None:
    """Load every artifact in a fresh process, and give each row how far its logits are from those measured."""

    def make() -> Entry:
        bench.progress.stage("artifacts: reload in a fresh process")
        device = bench.accelerator.device
        found = bench.processes.on_main(lambda: reload_differences(measured, bench.data, options.model, device))
        return Entry(facts={"differences": found})

    digests = [each.sha256 for each in measured]
    key = bench.store.key("reload", artifacts=digests, network=bench.digest, test=bench.data.test.digest)
    found = bench.store.once(Step("artifacts: reload", key), make).facts["differences"]
    if found is not None:
        differences = dict(zip(digests, found, strict=True))
        for each in (row for result in results for row in result.rows):
            each["reloaded_logits_max_abs_diff"] = differences[each["sha256"]]
