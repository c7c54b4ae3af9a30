"""A row's ONNX file and its figures."""

import dataclasses
import json

import onnx
import pytest
import torch

import pipeline.onnx.file
from pipeline.errors import OnnxError
from pipeline.onnx.file import OnnxExporter
from pipeline.stages.evaluate import Evaluation, evaluate
from pipeline.stages.export import OnnxFigures, measured_onnx
from tests.pipeline.onnx.graphs import IDENTITY, compressed
from tests.pipeline.onnx.test_session import images


def measured(network) -> Evaluation:
    return evaluate(network, images(), device=torch.device("cpu"))


def test_the_figures_are_those_of_the_file():
    record, network = compressed(3)
    expected = measured(network)
    content, figures = measured_onnx(OnnxExporter(), record, network, IDENTITY, images=images(), measured=expected)
    assert figures == OnnxFigures(expected.top1, 0, 4, None)
    facts = json.loads(onnx.load_from_string(content).metadata_props[0].value)
    assert facts == {"model": IDENTITY.model, "mean": [0.5] * 3, "std": [0.2] * 3, "class_names": ["a", "b", "c", "d"]}


def test_differing_predictions_are_counted():
    record, network = compressed()
    found = measured(network)
    other = found.logits.clone()
    other[:7] = -other[:7]
    _, figures = measured_onnx(
        OnnxExporter(), record, network, IDENTITY, images=images(), measured=Evaluation(other, torch.zeros(len(other)))
    )
    assert figures.differing_predictions == 7


def test_rows_share_one_graph(monkeypatch):
    traces = []
    real = pipeline.onnx.file.trace
    monkeypatch.setattr(pipeline.onnx.file, "trace", lambda *given: traces.append(given) or real(*given))
    exporter = OnnxExporter()
    sizes = [len(exporter.file(*compressed(bits), IDENTITY)) for bits in (8, 4)]
    assert sizes[0] > sizes[1]
    assert len(traces) == 1


def test_a_network_without_onnx_form_gives_the_reason_and_no_file(monkeypatch):
    tries = []

    def refuse(*given):
        tries.append(given)
        raise OnnxError("onnx: the network Net has no ONNX form: it loops")

    monkeypatch.setattr(pipeline.onnx.file, "trace", refuse)
    record, network = compressed()
    exporter, arguments = OnnxExporter(), {"images": images(), "measured": measured(network)}
    for _ in range(2):
        content, figures = measured_onnx(exporter, record, network, IDENTITY, **arguments)
        assert content is None
        assert dataclasses.asdict(figures) == {
            **dict.fromkeys(("top1", "differing_predictions", "bits")),
            "reason": "onnx: the network Net has no ONNX form: it loops",
        }
    assert len(tries) == 1
    with pytest.raises(OnnxError, match="it loops"):
        exporter.file(record, network, IDENTITY)
