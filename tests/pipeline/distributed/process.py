"""One of several processes: it writes its results of the scenario, and its stderr, into a folder."""

import os
from pathlib import Path


def write(folder: Path) -> None:
    from tests.pipeline.distributed.scenario import write_results

    with (folder / f"{os.environ['RANK']}.stderr").open("wb") as file:
        os.dup2(file.fileno(), 2)
    write_results(folder)
