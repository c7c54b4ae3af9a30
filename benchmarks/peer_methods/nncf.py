"""NNCF's weight compression: convolutions have 8 bits; it has no fewer for them (4 bits are for linear layers)."""

import copy
import logging
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from .job import Job, Run

METHOD = "NNCF"


def runs(job: Job) -> Iterator[Run]:
    """Yield 8 bits with and without zero points."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)

    def compressed(network: nn.Module, mode: str) -> nn.Module:
        dataset = nncf.Dataset([job.images[:1]])  # only for its tracing: 8 bits use no images
        result: nn.Module = nncf.compress_weights(network, mode=nncf.CompressWeightsMode[mode], dataset=dataset)
        return result

    def run(mode: str) -> Run:
        def write(path: Path) -> None:
            network = compressed(copy.deepcopy(job.original), mode)
            save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)

        def read(path: Path) -> nn.Module:
            network = compressed(job.network(), mode)
            network.load_state_dict(load_file(path))
            return network

        return Run(METHOD, mode, write, read)

    yield from map(run, ("INT8_ASYM", "INT8_SYM"))
