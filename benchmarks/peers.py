"""Files of this project and of other compressors, from one checkpoint, without training: bytes, Top-1 and seconds.

The peers are NNCodec (ISO/IEC 15938-17), optimum-quanto, NNCF and Brevitas' GPTQ. They have an environment of their
own, see `peers-requirements.txt`; a peer that is missing or fails gets a row that says so. Every method gets the same
checkpoint and the same 1,000 calibration images. Top-1 is that of the network read from the written file, on the same
10,000 test images. `$SERIESQUANT_DATA` is the folder with `cifar10.npz` and the checkpoints.

Seconds are those of compressing and writing; for this project, those of the whole command with its imports, Top-1
measurements, ONNX files and reloads, divided by the number of its files. The exit code is 1 if a row of this project
failed, or if every row of the peers did.
"""

import argparse
import datetime
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path

CHECKPOINTS = {"resnet20": "resnet20-12fca82f.th", "resnet32": "resnet32-d509ac18.th"}
METHODS = ("ours", "nncodec", "quanto", "nncf", "brevitas")
DISTRIBUTIONS = ("torch", "nncodec", "optimum-quanto", "nncf", "brevitas")


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="peers.py", description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(CHECKPOINTS), default="resnet20")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results; runs/peers-MODEL by default")
    parser.add_argument("--threads", type=int, default=1, help="threads of every method (default 1)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="methods to run (default: all)")
    given = parser.parse_args(words)
    if given.threads < 1:
        parser.error(f"--threads is {given.threads}; allowed: 1 or more")
    given.out = (given.out or Path("runs") / f"peers-{given.model}").resolve()
    return given


def main() -> int:
    given = arguments(sys.argv[1:])
    data = os.environ.get("SERIESQUANT_DATA")
    if data is None:
        sys.exit("peers: SERIESQUANT_DATA is not set; allowed: the folder with cifar10.npz and the checkpoints")
    os.environ["OMP_NUM_THREADS"] = str(given.threads)  # before torch is imported, and for child processes

    from peer_methods import ours, output
    from peer_methods.job import Job, Row, measured

    from pipeline.runtime.environment import git_commit

    logging.disable(logging.WARNING)
    folder = Path(data).resolve()
    files = given.out / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    job = Job.load(given.model, folder / CHECKPOINTS[given.model], folder / "cifar10.npz", given.threads, files)
    facts = {
        "model": given.model,
        "baseline_top1": job.top1(job.original),
        "commit": git_commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "threads": given.threads,
        "versions": {name: version(name) for name in DISTRIBUTIONS},
    }
    rows: list[Row] = []
    for name in given.methods:
        method = import_module(f"peer_methods.{name}")
        rows.extend(measured(method.METHOD, method.runs, job))
        output.write(given.out, facts, rows)
    print((given.out / "peers.md").read_text())
    own = [row for row in rows if row.method in (ours.METHOD, ours.DENSE)]
    peers = [row for row in rows if row not in own]
    failed = any(row.error is not None for row in own) or (peers and all(row.error is not None for row in peers))
    return 1 if failed else 0


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
