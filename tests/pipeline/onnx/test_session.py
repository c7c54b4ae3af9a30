"""Files in onnxruntime."""

import numpy as np
import onnx
import pytest
import torch

from pipeline.data.dataset import Normalization
from pipeline.data.memory import MemorySplit
from pipeline.errors import OnnxError
from pipeline.onnx.file import onnx_file
from pipeline.onnx.session import FOLD, open_session
from pipeline.onnx.trace import trace
from pipeline.stages.evaluate import evaluate
from pipeline.stages.export import evaluate_onnx
from tests.pipeline.onnx.graphs import IMAGES, compressed
from tests.support.networks import tiny_network


@pytest.fixture(scope="module")
def written():
    record, network = compressed()
    return onnx_file(trace(network, (12, 12)), record, network, {}), network


def images(size: int = 12) -> MemorySplit:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (60, size, size, 3), dtype=np.uint8))
    return MemorySplit(pixels, torch.arange(60) % 4, Normalization(), flip=False)


def test_it_predicts_what_pytorch_predicts(written):
    content, network = written
    ours, theirs = (
        evaluate(network, images(), device=torch.device("cpu")),
        evaluate_onnx(open_session(content), images()),
    )
    torch.testing.assert_close(theirs.logits, ours.logits, rtol=1e-4, atol=1e-4)
    assert theirs.top1 == ours.top1


def test_folding_leaves_no_reconstruction_and_the_same_logits(written, tmp_path):
    """Read from the graph that onnxruntime makes with the entry, and without it."""
    import onnxruntime

    operators = {}
    for value in ("0", FOLD[1]):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(FOLD[0], value)
        options.optimized_model_filepath = str(tmp_path / f"{value}.onnx")
        onnxruntime.InferenceSession(written[0], options, providers=["CPUExecutionProvider"])
        operators[value] = {node.op_type for node in onnx.load(tmp_path / f"{value}.onnx").graph.node}
    assert "DequantizeLinear" in operators["0"]
    assert not {"DequantizeLinear", "MatMul"} & operators["1"]
    x = {"input": IMAGES.numpy()}
    folded, unfolded = (open_session(written[0], fold=fold).run(None, x)[0] for fold in (True, False))
    np.testing.assert_allclose(folded, unfolded, rtol=1e-4, atol=1e-5)


def test_a_file_is_opened_by_its_path(written, tmp_path):
    (tmp_path / "a.onnx").write_bytes(written[0])
    assert open_session(tmp_path / "a.onnx").get_inputs()[0].name == "input"


def test_bytes_that_are_no_network_are_refused():
    with pytest.raises(OnnxError, match=r"onnxruntime.* load .*: .") as caught:
        open_session(b"no network")
    assert "\n" not in str(caught.value)


def test_images_of_another_size_are_refused(written):
    with pytest.raises(OnnxError, match=r"onnxruntime.* run .*: ."):
        evaluate_onnx(open_session(written[0]), images(size=16))


def test_a_session_has_torchs_threads():
    record, network = compressed()
    content = onnx_file(trace(tiny_network(), (12, 12)), record, network, {})
    assert open_session(content).get_session_options().intra_op_num_threads == torch.get_num_threads()
