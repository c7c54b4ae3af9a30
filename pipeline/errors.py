"""The exception classes of the package; ``pipeline.failure.EXIT_CODES`` has the exit code of each."""

from basis.errors import CompressionError


class OptionsError(CompressionError):
    """Wrong arguments or options, or a network that cannot be compressed."""


class LostProcessError(CompressionError):
    """Another process of the same run ended."""


class DataError(CompressionError):
    """Data, weights or an artifact that is missing or damaged."""


class ClusterError(CompressionError):
    """A cluster that cannot be used, or that lost a task too often; a retry may succeed."""


class BusyError(CompressionError):
    """Another process holds the same file or folder, and did not release it in time; a retry may succeed."""


class OnnxError(CompressionError):
    """A network that cannot be exported to ONNX, or whose file onnxruntime refuses."""


def described(error: BaseException) -> str:
    """Return the class and the message of an error in one line, as a reason in the message of another error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
