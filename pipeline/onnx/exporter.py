"""The ONNX files of a run: one graph is traced, each row's values are put into it, and the file is measured."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.artifact import Identity
from pipeline.artifact.record import NetworkRecord
from pipeline.data.dataset import Split
from pipeline.errors import OnnxError
from pipeline.evaluation import Evaluation, measure_together
from pipeline.onnx.file import onnx_file
from pipeline.onnx.session import evaluate_onnx, open_session
from pipeline.onnx.trace import TracedNetwork, trace
from pipeline.onnx.weights import onnx_bits
from pipeline.runtime.processes import ALONE, Processes


@dataclass(frozen=True)
class OnnxFigures:
    """What was measured with a row's ONNX file; all None, and the reason, where there is none.

    Attributes:
        top1: Top-1 in onnxruntime, in percent.
        differing_predictions: Test images whose first answer is not PyTorch's.
        bits: Width of the stored integers, which ONNX has a type for.
        reason: Why there is no file.
    """

    top1: float | None = None
    differing_predictions: int | None = None
    bits: int | None = None
    reason: str | None = None


class OnnxExporter:
    """Writes the ONNX files of one architecture, whose graph is traced for the first of them."""

    def __init__(self) -> None:
        self._traced: TracedNetwork | OnnxError | None = None

    def file(
        self, record: NetworkRecord, network: nn.Module, identity: Identity, *, materialize: bool = False
    ) -> bytes:
        """Give the bytes of a network's ONNX file; see ``onnx_file``.

        Raises:
            OnnxError: The network has no ONNX form.
        """
        if self._traced is None:
            try:
                self._traced = trace(network, identity.image_size)
            except OnnxError as error:
                self._traced = error
        if isinstance(self._traced, OnnxError):
            raise self._traced
        return onnx_file(self._traced, record, network, _facts(identity), materialize=materialize)

    def measured_file(
        self,
        record: NetworkRecord,
        network: nn.Module,
        identity: Identity,
        *,
        images: Split,
        measured: Evaluation,
        processes: Processes = ALONE,
    ) -> tuple[bytes | None, OnnxFigures]:
        """Give a row's ONNX file, and compare it with PyTorch; a network without ONNX form is no error.

        Args:
            record: The row's integers.
            network: The network that ``build_network`` made of them.
            identity: What the file says of the network.
            images: Test images.
            measured: PyTorch's logits of these images.
            processes: They share the images.

        Returns:
            The file's content, or None, and its figures.
        """
        try:
            content = self.file(record, network, identity)
            session = open_session(content)
            found = measure_together(lambda part: evaluate_onnx(session, part), images, processes)
        except OnnxError as error:
            return None, OnnxFigures(reason=str(error))
        differing = int((found.logits.argmax(1) != measured.logits.argmax(1)).sum())
        bits = max((onnx_bits(layer.values) for layer in record.layers), default=None)
        return content, OnnxFigures(found.top1, differing, bits)


def _facts(identity: Identity) -> dict[str, Any]:
    """What a user of the file needs: how inputs are normalized, and what the outputs mean."""
    names = ("model", "mean", "std", "class_names")
    return {name: getattr(identity, name) for name in names}
