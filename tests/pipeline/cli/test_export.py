"""``seriesquant export`` as users run it, and what it writes."""

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto
from torch import nn

from pipeline.artifact import load, write_artifact
from pipeline.artifact.record import record_network
from pipeline.cli.export import read
from pipeline.errors import DataError, OptionsError
from pipeline.models.registry import build_model
from pipeline.stages.export import export_onnx, export_torch
from tests.pipeline.onnx.graphs import IDENTITY, IMAGES, compressed, run
from tests.support.networks import tiny_network, with_statistics, write_module
from tests.support.program import call_program

ROOT = Path(__file__).parents[3]
FLAGS = {"materialize": False, "allow_import": True}


@pytest.fixture
def artifact(tmp_path, monkeypatch):
    """An artifact of the small network, whose module is in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_module(tmp_path)
    path = tmp_path / "small-4.safetensors"
    write_artifact(compressed()[0], IDENTITY, path)
    return path


def command(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / "run_pipeline.py"), "export", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": ""}
    return subprocess.run(
        program, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_the_command_writes_onnx_and_a_state_dict(artifact):
    expected = load(artifact, allow_import=True)(IMAGES)
    done = command(artifact.parent, artifact, "--format", "onnx", "--allow-import")
    assert done.returncode == 0, done.stderr
    path = artifact.with_name("small-4.onnx")
    assert done.stdout.startswith(f"{path}: {path.stat().st_size / 1e6:.3f} MB; largest difference of a logit")
    torch.testing.assert_close(run(path.read_bytes(), IMAGES), expected, rtol=1e-4, atol=1e-5)

    words = ("export", str(artifact), "--format", "torch", "--allow-import", "--out", "new/net.safetensors")
    done = call_program(artifact.parent, *words)
    assert done.returncode == 0, done.stderr
    network = tiny_network(seed=5)
    network.load_state_dict(safetensors.torch.load_file(artifact.parent / "new" / "net.safetensors"))
    assert torch.equal(network.eval()(IMAGES), expected)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("small-4.safetensors",), 2, "missing option '--format'"),
        (("small-4.safetensors", "--format", "tflite"), 2, "--format: got 'tflite'; allowed: onnx, torch"),
        (("--format", "onnx"), 2, "missing argument 'file'"),
        (("small-4.safetensors", "--format", "torch", "--materialize"), 2, "--materialize: got --format torch"),
        (("none.safetensors", "--format", "onnx"), 4, "none.safetensors is not a file"),
        (("cut.safetensors", "--format", "torch"), 4, "cut.safetensors is damaged"),
        (("itself.safetensors", "--format", "torch"), 4, "itself.safetensors is not a file"),
        (("small-4.safetensors", "--format", "onnx"), 2, "would import code, which is not allowed here"),
        (("small-4.safetensors", "--format", "onnx", "--out", "./small-4.safetensors"), 2, "is the artifact itself"),
        (("small-4.safetensors", "--format", "onnx", "--out", "."), 2, "--out: . is a folder; allowed: a file"),
        *(
            (
                ("small-4.safetensors", "--format", name, "--allow-import", "--out", "cut.safetensors/new"),
                1,
                "export: cut.safetensors/new cannot be written: cut.safetensors is a file; allowed: another --out",
            )
            for name in ("onnx", "torch")
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_its_code_and_writes_nothing(artifact, words, code, sentence):
    (artifact.parent / "cut.safetensors").write_bytes(artifact.read_bytes()[:-40])
    (artifact.parent / "itself.safetensors").symlink_to("itself.safetensors")
    before = {path: path.read_bytes() for path in artifact.parent.iterdir() if path.is_file()}
    done = call_program(artifact.parent, "export", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr.lower() or sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path: path.read_bytes() for path in artifact.parent.iterdir() if path.is_file()} == before


def test_help_is_printed(capsys):
    assert read(["--help"], "seriesquant export") is None
    assert "--materialize" in capsys.readouterr().out


def test_a_materialized_file_is_not_beside_the_name_of_the_compact_one(artifact):
    action = read([str(artifact), "--format", "onnx", "--materialize", "--allow-import"], "export")
    assert action() == 0
    proto = onnx.load(artifact.with_name("small-4.float32.onnx"))
    assert TensorProto.INT4 not in {tensor.data_type for tensor in proto.graph.initializer}
    assert not artifact.with_name("small-4.onnx").exists()


def test_an_uncompressed_artifact_is_exported_too(artifact):
    network = with_statistics(tiny_network())
    write_artifact(record_network(network, {}), IDENTITY, artifact)
    export_onnx(artifact, artifact.with_name("dense.onnx"), **FLAGS)
    logits = run(artifact.with_name("dense.onnx").read_bytes(), IMAGES)
    torch.testing.assert_close(logits, network(IMAGES), rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """One convolution under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.second(self.first(x)).mean((2, 3))


class Loops(nn.Module):
    """It has no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x if float(x.sum()) > 0 else -x).mean((2, 3))


def test_a_shared_layer_is_in_the_state_dict_under_both_names(artifact, monkeypatch):
    monkeypatch.setattr("pipeline.artifact.loading.build_plain", lambda *_, **__: Shared())
    network = Shared()
    write_artifact(record_network(network, {}), IDENTITY, artifact)
    export_torch(artifact, artifact.with_name("s.safetensors"), allow_import=True)
    tensors = safetensors.torch.load_file(artifact.with_name("s.safetensors"))
    assert torch.equal(tensors["first.weight"], tensors["second.weight"])
    Shared().load_state_dict(tensors)


class Extra(Shared):
    """It has state that is no tensor."""

    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        raise AssertionError


def test_extra_state_is_left_out_with_a_warning(artifact, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.artifact.loading.build_plain", lambda *_, **__: Extra())
    network = Extra()
    write_artifact(record_network(network, {}), IDENTITY, artifact)
    export_torch(artifact, artifact.with_name("s.safetensors"), allow_import=True)
    assert "lacks the entry '_extra_state', which is no tensor" in caplog.text
    found = Extra().load_state_dict(safetensors.torch.load_file(artifact.with_name("s.safetensors")), strict=False)
    assert found.missing_keys == ["_extra_state"]


def test_a_network_without_onnx_form_is_one_sentence_and_no_file(artifact, monkeypatch):
    monkeypatch.setattr("pipeline.artifact.loading.build_plain", lambda *_, **__: Loops())
    write_artifact(record_network(Loops(), {}), IDENTITY, artifact)
    with pytest.raises(OptionsError, match=r"Loops.* ONNX.*--format torch"):
        export_onnx(artifact, artifact.with_name("l.onnx"), **FLAGS)
    assert not artifact.with_name("l.onnx").exists()
    with pytest.raises(DataError, match="is not a file"):
        export_onnx(artifact.with_name("none"), artifact.with_name("l.onnx"), **FLAGS)


def test_a_known_network_loads_into_torchvisions_own_class(artifact):
    import torchvision

    network = with_statistics(build_model("resnet18", 4)).eval()
    identity = type(IDENTITY)(**{**vars(IDENTITY), "model": "resnet18", "image_size": (32, 32)})
    write_artifact(record_network(network, {}), identity, artifact)
    export_torch(artifact, artifact.with_name("t.safetensors"), allow_import=False)
    other = torchvision.models.resnet18(num_classes=4).eval()
    other.load_state_dict(safetensors.torch.load_file(artifact.with_name("t.safetensors")))
    assert torch.equal(other(IMAGES), network(IMAGES))
