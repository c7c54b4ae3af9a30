"""An ONNX file in onnxruntime: the session options that fit it, and its Top-1."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from pipeline.errors import OnnxError
from pipeline.onnx.trace import INPUT

FOLD = ("session.disable_quant_qdq", "1")
"""The session entry that lets onnxruntime turn every DequantizeLinear, and what follows it, into a constant."""

_SILENT = 4  # a failure is raised, and needs no log line of its own


def open_session(file: bytes | Path, *, fold: bool = True) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU, with as many threads as torch uses.

    Args:
        file: The file's bytes or path.
        fold: Whether filters are rebuilt once, when the file loads, or in every call.

    Raises:
        OnnxError: onnxruntime refuses the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _SILENT
    if fold:
        options.add_session_config_entry(*FOLD)
    source = file if isinstance(file, bytes) else str(file)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base class of their own
        raise OnnxError(f"onnx: onnxruntime cannot load the network: {_first_line(error)}") from error


def run_session(session: onnxruntime.InferenceSession, images: Tensor) -> Tensor:
    """Compute the logits, (N, classes), of images, (N, 3, H, W), on the CPU.

    Raises:
        OnnxError: onnxruntime cannot compute them.
    """
    try:
        logits = session.run(None, {INPUT: np.ascontiguousarray(images.numpy())})[0]
    except Exception as error:
        raise OnnxError(f"onnx: onnxruntime cannot run the network: {_first_line(error)}") from error
    return torch.from_numpy(logits)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
