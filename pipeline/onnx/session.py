"""Run an ONNX file in onnxruntime, on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from pipeline.errors import OnnxError
from pipeline.onnx.trace import INPUT

FOLD = ("session.disable_quant_qdq", "1")
"""Session entry with which onnxruntime folds every DequantizeLinear and the nodes after it into a constant weight."""

_ONLY_FATAL = 4  # log level; errors are raised, so a log line would repeat them


def open_session(file: bytes | Path, *, fold: bool = True) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU, with as many threads as torch uses.

    Args:
        file: The file's bytes or path.
        fold: True to rebuild filters once, when the file loads; False to rebuild them in every call.

    Raises:
        OnnxError: onnxruntime cannot load the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _ONLY_FATAL
    if fold:
        options.add_session_config_entry(*FOLD)
    source = file if isinstance(file, bytes) else str(file)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise OnnxError(f"onnx: onnxruntime cannot load the network: {_first_line(error)}") from error


def run_session(session: onnxruntime.InferenceSession, images: Tensor) -> Tensor:
    """Return the logits of images.

    Args:
        session: An open session.
        images: (N, C, H, W), float32, normalized, on the CPU.

    Returns:
        (N, classes), float32.

    Raises:
        OnnxError: onnxruntime cannot run the network on these images.
    """
    try:
        logits = session.run(None, {INPUT: np.ascontiguousarray(images.numpy())})[0]
    except Exception as error:
        raise OnnxError(f"onnx: onnxruntime cannot run the network: {_first_line(error)}") from error
    return torch.from_numpy(logits)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
