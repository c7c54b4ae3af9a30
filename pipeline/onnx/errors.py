"""The error of an export, which a run reports in its row and does not fail with."""

from basis.errors import CompressionError


class OnnxError(CompressionError):
    """A network that has no ONNX form, or whose file a runtime refuses."""
