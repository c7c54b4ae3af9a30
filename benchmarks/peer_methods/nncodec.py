"""NNCodec, the codec of ISO/IEC 15938-17, without data and without training."""

import contextlib
import copy
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .job import Job, Run

METHOD = "NNCodec"
EPSILON = 1e-5  # of PyTorch's batch normalization
COMMON = {"bnf": True, "use_dq": True, "row_skipping": True, "param_opt": True, "nonweight_qp": -40}
"""Folding normalization and `nonweight_qp` of -40 for -75 save 7,500 of 83,749 bytes (ResNet-20, `qp` -18)."""
SWEEPS: dict[str, tuple[dict[str, Any], Sequence[int]]] = {
    "one step": (COMMON, (-26, -20)),
    "opt_qp": (COMMON | {"opt_qp": True}, (-30, -28, *range(-26, -18))),
    "opt_qp, lambda_scale 1": (COMMON | {"opt_qp": True, "lambda_scale": 1.0}, (-28, -26, -24)),
}
"""Name of the options -> the options, and values of `qp`."""


def runs(job: Job) -> Iterator[Run]:
    """Yield a sweep of the quantization parameter for every set of options."""
    from nncodec import nnc

    blocks = block_types(job.original)
    for name, (chosen, qps) in SWEEPS.items():
        for qp in qps:
            yield _run(job, nnc, f"qp {qp}, {name}", chosen | {"qp": qp}, blocks if chosen.get("bnf") else None)


def _run(job: Job, nnc: Any, name: str, chosen: dict[str, Any], blocks: dict[str, Any] | None) -> Run:
    def write(path: Path) -> None:
        state = {key: value.numpy().copy() for key, value in job.original.state_dict().items() if _coded(key)}
        with contextlib.redirect_stdout(io.StringIO()):
            nnc.compress(state, bitstream_path=str(path), block_id_and_param_type=copy.deepcopy(blocks), **chosen)

    def read(path: Path) -> nn.Module:
        with contextlib.redirect_stdout(io.StringIO()):
            found = nnc.decompress(
                str(path), block_id_and_param_type=copy.deepcopy(blocks), reconstruct_lsa=blocks is not None
            )
        network = job.network()
        network.load_state_dict({key: torch.from_numpy(value) for key, value in unfolded(found).items()}, strict=False)
        return network

    return Run(METHOD, name, write, read)


def _coded(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def block_types(network: nn.Module) -> dict[str, dict[str, str]]:
    """Name the block and the type of every parameter, which NNCodec needs to fold batch normalization.

    A block is a convolution and the normalization after it: `conv1` and `bn1`, in the CIFAR ResNets.
    """
    types, identifiers = {}, {}
    normalization = {"weight": "bn.gamma", "bias": "bn.beta", "running_mean": "bn.mean", "running_var": "bn.var"}
    for key in filter(_coded, network.state_dict()):
        owner, leaf = key.rsplit(".", 1)
        folded = owner.rpartition(".")[2].startswith("bn")
        types[key] = normalization[leaf] if folded else leaf
        identifiers[key] = owner.replace("bn", "conv")
    return {"parameter_type": types, "block_identifier": identifiers}


def unfolded(state: dict[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    """Rename the biases of folded blocks, `conv1.weight.bias`, and make the normalizations the identity."""
    result = {}
    for key, value in state.items():
        convolution = key.removesuffix(".weight.bias")
        if convolution == key:
            result[key] = value
            continue
        owner = convolution.replace("conv", "bn")
        ones = np.ones_like(value)
        result |= {f"{owner}.bias": value, f"{owner}.weight": ones, f"{owner}.running_mean": 0 * ones}
        result[f"{owner}.running_var"] = ones - np.float32(EPSILON)
    return result
