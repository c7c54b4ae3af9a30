"""The commands that read an artifact, as a user calls them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.artifact import Identity, load, write_artifact
from pipeline.artifact.record import record_network
from pipeline.cli import main
from pipeline.data import load_dataset
from pipeline.models import build_model
from pipeline.stages.evaluate import evaluate
from quant.backends import get_backend
from quant.formats import IntFormat
from quant.network import quantize_network
from tests.pipeline.artifact.samples import compressed, stepped
from tests.support.networks import write_module, write_npz

ROOT = Path(__file__).parents[3]
NAMES = ("0", "1", "2", "3")
LONG = "n" * 300
"""A name that the system refuses to look for, as one in a folder that may not be searched."""
RUN = ("run", "--config", "3,2,2", "--model", "tiny_net:make", "--data", "colours.npz", "--out", "run")
STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with data, a user's network, and two artifacts of it."""
    write_npz(tmp_path / "colours.npz")
    identity = Identity(write_module(tmp_path), 4, NAMES, *STATISTICS, (12, 12))
    for bits in (4, 8):
        write_artifact(compressed(bits), identity, tmp_path / f"{bits}.safetensors")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("tiny_net", None)


def resnet20(path: Path, names=NAMES, mean=STATISTICS[0]) -> Path:
    torch.manual_seed(0)
    model = build_model("resnet20", len(names))
    quantized = quantize_network(model, IntFormat(4), get_backend("brevitas"))
    write_artifact(
        record_network(model, quantized), Identity("resnet20", len(names), names, mean, STATISTICS[1], (12, 12)), path
    )
    return path


def test_inspect_accounts_for_every_byte(here, capsys):
    assert main(["inspect", "4.safetensors"]) == 0
    out = capsys.readouterr().out
    kinds = re.findall(r"^([a-z][a-z ]+?)  +(\d+) +[\d.]+$", out, re.MULTILINE)
    sizes = {name: int(size) for name, size in kinds}
    total = sizes.pop("whole file")
    assert total == sum(sizes.values()) == (here / "4.safetensors").stat().st_size
    lines = [line.split() for line in out.splitlines() if re.match(r"(\d\.\d|5) .* int ", line)]
    assert [line[:-3] for line in lines[::4]] == [
        ["0.0", "cosine", "5x5", "3x3", "3x3", "int", "4", "8x3x3x3"],
        ["5", "-", "-", "-", "-", "int", "4", "4x16"],
    ]
    assert sizes["integers"] == pytest.approx(sum(float(line[-2]) for line in lines), abs=1)
    values = compressed(4).layers[0].values.integers
    assert float(lines[0][-3]) == pytest.approx(8 * float(lines[0][-2]) / values.numel(), abs=0.01)
    nonzero = (values != 0).sum((0, 1))
    assert re.findall(r"\((\d+)\)", out)[:9] == [str(int(number)) for number in nonzero.flatten()]
    assert "tiny_net:make" in out


def test_inspect_shows_the_kept_terms_of_steps(here, capsys):
    record = stepped()
    values = record.layers[0].values
    values.integers[:, :, :, 1:] = 0
    identity = Identity("tiny_net:make", 4, NAMES, *STATISTICS, (12, 12))
    write_artifact(record, identity, here / "s.safetensors")
    assert main(["inspect", "s.safetensors"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    kept = {line[0]: line[4] for line in lines if len(line) > 5 and line[5] == "stepped"}
    assert kept["0.0"] == "3x1"  # the first column of the order 3x3
    assert {line[0]: line[4:6] for line in lines if "terms" in line[5:6]} == {
        "1.0": ["3", "terms"],
        "2.0": ["8", "terms"],
    }


def test_inspect_shows_the_uncompressed_network_without_a_table_of_layers(tmp_path, capsys):
    identity = Identity("resnet20", 4, NAMES, *STATISTICS, (12, 12))
    write_artifact(record_network(build_model("resnet20", 4), {}), identity, tmp_path / "a.safetensors")
    assert main(["inspect", str(tmp_path / "a.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "Scheme" not in out
    assert re.search(r"integers +0 ", out)


def test_inspect_and_verify_import_nothing(here, capsys):
    (here / "tiny_net.py").write_text("raise SystemExit(9)")
    assert main(["inspect", "4.safetensors"]) == 0
    assert main(["verify", "4.safetensors"]) == 0
    assert "not compared with tiny_net:make, which only --allow-import imports" in capsys.readouterr().out


def test_verify_compares_with_the_network(here, capsys):
    assert main(["verify", "4.safetensors", "--allow-import"]) == 0
    assert re.search(
        r"4\.safetensors: whole; \d+ bytes, 5 layers .* as in tiny_net:make, SHA-256 [0-9a-f]{64}\n",
        capsys.readouterr().out,
    )
    assert main(["verify", str(resnet20(here / "r.safetensors"))]) == 0
    assert "as in resnet20" in capsys.readouterr().out


def test_a_network_that_only_its_owner_has_is_inspected_but_not_built(here, capsys):
    identity = Identity("notebook.Net", 4, NAMES, (0.0,) * 3, (1.0,) * 3, (12, 12), is_object=True)
    write_artifact(compressed(), identity, here / "own.safetensors")
    assert main(["inspect", "own.safetensors"]) == 0
    assert re.search(r"^model +notebook\.Net$\n^built by +object$", capsys.readouterr().out, re.MULTILINE)
    assert main(["verify", "own.safetensors", "--allow-import"]) == 0
    assert "not compared with notebook.Net, which only its owner can build" in capsys.readouterr().out
    for command in (
        ["evaluate", "own.safetensors", "--data", "none"],
        ["export", "own.safetensors", "--format", "torch"],
    ):
        assert main([*command, "--allow-import"]) == 2
        assert re.search(r"notebook\.Net.*allowed: .*network=", capsys.readouterr().err)


def constant(path: Path, label: int, names=NAMES) -> Path:
    """Write a network that predicts one class for every image."""
    model = build_model("resnet20", 4)
    *_, head = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
    torch.nn.init.zeros_(head.weight)
    head.bias.data.copy_(torch.eye(4)[label])
    write_artifact(record_network(model, {}), Identity("resnet20", 4, names, *STATISTICS, (12, 12)), path)
    return path


def test_evaluate_prints_top1_and_agreement_of_known_predictions(here, capsys):
    """16 of the 61 test images have label 0, and 15 have label 3."""
    paths = [str(constant(here / f"{label}.safetensors", label)) for label in (0, 3)]
    assert main(["evaluate", paths[0], "--data", "colours.npz", "--against", paths[1]]) == 0
    out = capsys.readouterr().out
    assert re.search(r"0\.safetensors +26\.23 +16 +61\n", out)
    assert re.search(r"3\.safetensors +24\.59 +15 +61\n", out)
    assert re.search(r"Agreement: 0\.00 %, 0 of 61 .*\n$", out)
    assert main(["evaluate", paths[0], "--data", "colours.npz", "--against", paths[0]]) == 0
    assert re.search(r"Agreement: 100\.00 %, 61 of 61 .*\n$", capsys.readouterr().out)


def test_evaluate_runs_a_users_network(here, capsys):
    words = ["--data", "colours.npz", "--against", "8.safetensors", "--allow-import"]
    assert main(["evaluate", "4.safetensors", *words]) == 0
    out = capsys.readouterr().out
    network, data = load("4.safetensors", allow_import=True), load_dataset("colours.npz")
    right = evaluate(network, data.test, device=torch.device("cpu")).correct
    assert re.search(rf"4\.safetensors +[\d.]+ +{right} +61\n", out)


def test_evaluate_needs_no_training_images(here, capsys):
    with np.load("colours.npz") as arrays:
        np.savez("test.npz", x_test=arrays["x_test"], y_test=arrays["y_test"])
    for data in ("colours.npz", "test.npz"):
        assert main(["evaluate", str(constant(here / "3.safetensors", 3)), "--data", data]) == 0
        assert re.search(r"3\.safetensors +24\.59 +15 +61\n", capsys.readouterr().out)
    assert main(["--config", "3,3,3,2", "--data", "test.npz", "--out", "out"]) == 4
    assert "test.npz lacks train images" in capsys.readouterr().err


@pytest.mark.parametrize("half", ["val", "test"])
@pytest.mark.parametrize("side", [12, 130])
def test_a_folder_of_some_classes_is_evaluated_by_their_names(here, capsys, half, side):
    """The network predicts `cat`, its class 1, which is class 0 of the folder."""
    for name, count in (("cat", 3), ("dog", 2)):
        (here / "pets" / half / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (side, side)).save(here / "pets" / half / name / f"{number}.png")
    path = constant(here / "cat.safetensors", 1, names=("ant", "cat", "dog", "eel"))
    assert main(["evaluate", str(path), "--data", "pets", "--workers", "0"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"cat\.safetensors +60\.00 +3 +5\n", out)
    assert "have different names" not in err


def test_images_of_one_class_are_evaluated(here, capsys):
    """A training needs two classes, a measurement does not."""
    (here / "pets" / "val" / "cat").mkdir(parents=True)
    Image.new("RGB", (12, 12)).save(here / "pets" / "val" / "cat" / "0.png")
    np.savez("cats.npz", x_test=np.zeros((3, 12, 12, 3), np.uint8), y_test=np.zeros(3, np.uint8))
    for data, first in (("pets", "cat"), ("cats.npz", "0")):
        path = constant(here / "cat.safetensors", 0, names=(first, "dog", "eel", "ant"))
        assert main(["evaluate", str(path), "--data", data, "--workers", "0"]) == 0
        assert re.search(r"cat\.safetensors +100\.00 +[13] +[13]\n", capsys.readouterr().out)


def test_evaluate_takes_the_first_images_and_the_files_normalization(here, capsys):
    path = resnet20(here / "r.safetensors", mean=(0.1, 0.2, 0.3))
    assert main(["evaluate", str(path), "--data", "colours.npz", "--limit-test", "20"]) == 0
    test = load_dataset("colours.npz", limit_test=20).test
    images, labels = test.images[test.order], test.labels[test.order]
    x = (images / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor(STATISTICS[1])
    right = int((load(path)(x.permute(0, 3, 1, 2)).argmax(1) == labels).sum())
    assert re.search(rf" {100 * right / 20:.2f} +{right} +20\n", capsys.readouterr().out)


def test_evaluate_warns_of_other_class_names(here, capsys, caplog):
    path = resnet20(here / "r.safetensors", names=("a", "b", "c", "d", "e"))
    assert main(["evaluate", str(path), "--data", "colours.npz"]) == 0
    assert "have different names; they are matched by number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "term"),
    [
        (["inspect"], 2, "'FILE'; allowed: "),
        (["inspect", "nowhere"], 4, "nowhere is not a file; allowed: "),
        (["verify", "."], 4, " . is not a file"),
        (["verify", "colours.npz"], 4, "colours.npz is damaged"),
        (["verify", "torn"], 4, "torn is damaged"),
        (["verify", "4.safetensors", "more"], 2, "unexpected extra argument"),
        (
            ["verify", "4.safetensors", "--allow-imports"],
            2,
            "--allow-imports; did you mean --allow-import?",
        ),
        (["evaluate", "4.safetensors", "--data", "colours.npz"], 2, "allow it with --allow-import"),
        (["evaluate", "4.safetensors", "--data", "nowhere.npz", "--allow-import"], 4, "nowhere.npz does not exist"),
        (["evaluate", "4.safetensors", "--against", "torn", "--allow-import"], 4, "torn is damaged"),
        (
            ["evaluate", "4.safetensors", "--allow-import"],
            4,
            "has 4 classes, but the data has 10; allowed: ",
        ),
        (
            ["evaluate", "4.safetensors", "--device", "tpu"],
            2,
            "--device: got 'tpu'; allowed: auto, cpu, cuda, cuda:N, mps",
        ),
        (["inspect", LONG], 4, LONG),
        (["report", LONG], 4, LONG),
        (["evaluate", "4.safetensors", "--data", LONG, "--allow-import"], 4, LONG),
        ([*RUN, "--data", LONG], 4, LONG),
        ([*RUN, "--weights", f"{LONG}.pth"], 4, LONG),
        ([*RUN, "--model", f"./{LONG}.py:make"], 2, LONG),
        *(
            (["evaluate", "4.safetensors", "--limit-test", given], 2, f"--limit-test: got '{given}'; allowed: a whole ")
            for given in ("0", "x", "1.5")
        ),
        (["evaluate", "4.safetensors", "--workers", "-1"], 2, "--workers: got '-1'; allowed: a whole number, 0 or"),
        (["cache", "prune", "--keep-mb", "-1"], 2, "--keep-mb: got '-1'; allowed: a number, 0 or more"),
        (["cache", "prune", "--older-than-days", "nan"], 2, "--older-than-days: got 'nan'; allowed: a number, 0 or"),
    ],
)
def test_mistakes_are_one_sentence_and_their_code(here, capsys, words, code, term):
    (here / "torn").write_bytes((here / "4.safetensors").read_bytes()[:-9])
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert term in err


def test_the_program_reads_an_artifact_as_a_process(here):
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "verify", "8.safetensors", "--allow-import"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("8.safetensors: whole; ")


def test_a_commands_mistake_loads_nothing_heavy():
    code = (
        "import sys; from pipeline.cli import main; main(['evaluate', 'x', '--device', 'tpu']); main(['inspect']);"
        "main(['verify', '--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0
