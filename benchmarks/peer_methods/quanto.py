"""optimum-quanto: integer weights to nearest, without data; activations stay float."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from .job import Job, Run

METHOD = "optimum-quanto"


def runs(job: Job) -> Iterator[Run]:
    """Yield int8, int4 and int2."""
    from optimum import quanto

    def run(weights: str) -> Run:
        def write(path: Path) -> None:
            network = copy.deepcopy(job.original)
            quanto.quantize(network, weights=weights)
            quanto.freeze(network)
            state = {key: value.contiguous() for key, value in network.state_dict().items()}
            save_file(state, path, {"map": json.dumps(quanto.quantization_map(network))})

        def read(path: Path) -> nn.Module:
            with safe_open(path, "pt") as file:
                mapping = json.loads(file.metadata()["map"])
            network = job.network()
            quanto.requantize(network, load_file(path), mapping)
            return network

        return Run(METHOD, weights, write, read)

    yield from map(run, ("qint8", "qint4", "qint2"))
