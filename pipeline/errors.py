"""The errors of a run that carry an exit code of their own."""

from basis.errors import CompressionError


class OptionsError(CompressionError):
    """Wrong arguments or options: exit code 2."""


class LostProcessError(CompressionError):
    """Another process of the same run ended: exit code 1."""


class DataError(CompressionError):
    """Data, weights or an artifact that is missing or damaged: exit code 4."""


class ClusterError(CompressionError):
    """A cluster that cannot be used, or that lost a task too often: exit code 1, and worth another try."""


class BusyError(CompressionError):
    """Another process uses the same file or folder, and did not end in time: exit code 1, and worth another try."""


class OnnxError(CompressionError):
    """A network that has no ONNX form, or whose file a runtime refuses."""
