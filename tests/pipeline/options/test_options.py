import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.cli.arguments import read_flags
from pipeline.errors import OptionsError
from pipeline.options.options import Options, load_options_file, options_from
from pipeline.options.registry import EXECUTORS, TRACKERS
from pipeline.options.values import BITS, CHOICES
from quant.backends import get_backend
from quant.schemes import get_format


def parse_command(argv: list[str]) -> Options:
    """Parse the words of the command ``run`` into options."""
    flags = read_flags(argv, Options.model_fields)
    assert flags is not None
    return options_from(flags.values, flags.options_file)


def _again(options: Options) -> Options:
    return parse_command(shlex.split(options.command())[2:])


def test_defaults() -> None:
    options = Options(config="6,3,3,2,2")
    assert (options.config, options.bits, options.basis) == (("6,3,3,2,2",), (8, 4), ("cosine",))
    assert (options.model, options.weights, options.data) == ("resnet18", "auto", "digits")
    assert options.out == Path("runs/resnet18-digits-6,3,3,2,2")
    assert options.command() == "python run_pipeline.py --config 6,3,3,2,2"
    with pytest.raises(ValidationError):
        options.seed = 1


def test_every_choice_can_be_loaded() -> None:
    assert all(callable(get_backend(name).quantize) for name in CHOICES["backend"])
    assert all(get_format(scheme, bits).scheme == scheme for scheme in CHOICES["scheme"] for bits in BITS)
    assert all(callable(plugin.load().opened) for plugin in EXECUTORS.values())
    assert all(callable(plugin.load().destination) for plugin in TRACKERS.values())


def test_out_names_the_run_and_is_one_folder() -> None:
    options = Options(config="3,2", model="my.nets:build", data="some where/cifar10.npz")
    assert options.out == Path("runs/my.nets-build-cifar10-3,2")
    assert Options(config="3,2", model="m", data="..", out=Path("a b")).out == Path("a b")


def test_out_names_every_config() -> None:
    folders = {Options(config=configs).out for configs in ("3,3,2,2", ["3,3,2,2", "dense"], ["3,3,2,2", "2,2,2,2"])}
    assert Path("runs/resnet20-digits-3,3,2,2_dense") in folders
    assert len(folders) == 3


def test_a_long_out_is_cut_and_stays_apart() -> None:
    grids = [[f"{order}x3,7x3,7x9,6x3" for order in range(2, last)] for last in (9, 10)]
    folders = {Options(config=configs).out for configs in grids}
    assert len(folders) == 2
    assert all(len(folder.name) == 100 and folder.name.startswith("convnext_tiny-digits-2x3,") for folder in folders)
    for letter in ("x", "\u00fc", "\u65e5", "\U00020000"):  # of 1 to 4 bytes: a file system limits names by bytes
        folder = Options(config="3,2", model="m", data=f"{letter * 80}.npz").out.name
        assert 80 <= len(folder.encode()) <= 100
        assert folder.startswith(f"m-{letter * 10}")


def test_command_says_only_what_is_not_the_default() -> None:
    argv = "--config 3,3,3,2 --config dense --bits 4 --model resnet20 --no-distill --fresh --out 'a b' --lr 1e-3"
    options = parse_command(shlex.split(argv))
    expected = "--config 3,3,3,2 --config dense --bits 4 --no-distill --lr 0.001 --fresh --out 'a b'"
    assert options.command() == f"python run_pipeline.py {expected}"
    assert _again(options) == options


@given(
    st.fixed_dictionaries(
        {"config": st.sampled_from(["6,3,3,2,2", ["3,3,3,2", "dense"], "7x3", ["2,2,2,2", "3,3,3,2"]])},
        optional={
            "bits": st.lists(st.integers(2, 8), min_size=1, unique=True),
            "basis": st.sampled_from(["cosine", "chebyshev", "chebyshev,cosine"]),
            "model": st.sampled_from(["resnet18", "resnet20", "convnext_tiny", "a.b:c"]),
            "weights": st.sampled_from(["auto", "a 'file'.th", "-odd"]),
            "data": st.sampled_from(["digits", "/d/x.npz", "it's"]),
            "epochs": st.integers(0, 99),
            "distill": st.booleans(),
            "onnx": st.booleans(),
            "backend": st.sampled_from(CHOICES["backend"]),
            "max_drop": st.none() | st.floats(0, 100),
            "lr": st.none() | st.floats(1e-9, 10),
            "seed": st.integers(0, 2**32 - 1),
            "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"]),
            "limit_test": st.none() | st.integers(1, 9999),
            "fresh": st.booleans(),
            "track": st.sampled_from(["mlflow", "mlflow,tensorboard", "none", []]),
            "tracking_uri": st.none() | st.sampled_from(["http://tracking:5000", "sqlite:///a b.db"]),
            "experiment": st.none() | st.just("small 'nets'"),
            "out": st.none() | st.sampled_from([Path("o"), Path("runs/a b")]),
        },
    )
)
def test_command_reproduces_the_options(values: dict[str, Any]) -> None:
    options = Options(**values)
    assert _again(options) == options


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "--config: is missing; allowed: .*config"),
        ({"config": "3,,3"}, "'3,,3'.* empty"),
        ({"config": "3,3,3"}, "pass --model"),
        ({"config": "dense"}, "'dense'.* --model"),
        ({"config": ["3,3,3,2", "3, 3,3,2"]}, "--config: 3,3,3,2 is given twice"),
        ({"config": [6, 3, 3]}, r"--config: got \[6, 3, 3\]; allowed: text.* quotes"),
        ({"config": []}, r"--config: got \[\]; allowed: one config or a list"),
        ({"bits": "9"}, "--bits: got '9'; allowed: 2 to 8"),
        ({"bits": "8,"}, "--bits: got '8,'"),
        ({"bits": 1}, "--bits: got 1; allowed: 2 to 8"),
        ({"bits": [4, True]}, "--bits: got"),
        ({"bits": "4,8,4"}, "--bits: 4 is given twice"),
        ({"dense_bits": "9"}, "--dense-bits: got '9'; allowed: 2 to 8"),
        ({"dense_bits": [3, 3]}, "--dense-bits: 3 is given twice"),
        ({"basis": "fourier"}, "--basis: got 'fourier'; allowed: cosine, chebyshev"),
        ({"basis": "cosine,cosine"}, "--basis: cosine is given twice"),
        ({"fit": "best"}, "--fit: got 'best'; allowed: activations, weights"),
        ({"rounding": "up"}, "--rounding: got 'up'; allowed: gptq, nearest"),
        ({"backend": "torchXao"}, "--backend: got 'torchXao'; allowed: brevitas, torch.ao"),
        ({"scheme": "float"}, "--scheme: got 'float'; allowed: int, minifloat"),
        (
            {"scheme": "minifloat", "backend": "torch.ao"},
            "--scheme: got 'minifloat' .*torch.ao; allowed: int.*brevitas",
        ),
        ({"model": " "}, "--model: got ' '; allowed: text"),
        ({"data": 3}, "--data: got 3; allowed: text"),
        ({"epochs": -1}, "--epochs: got -1; allowed: .*0 or more"),
        ({"epochs": True}, "--epochs: got True"),
        ({"epochs": "2.5"}, "--epochs: got '2.5'"),
        ({"qat_epochs": "x"}, "--qat-epochs: got 'x'; allowed: 0 or more"),
        ({"max_drop": -0.5}, "--max-drop: got -0.5; allowed: .*0 or more"),
        ({"max_drop": "nan"}, "--max-drop: got 'nan'"),
        ({"max_drop": "inf"}, "--max-drop: got 'inf'"),
        ({"lr": 0}, "--lr: got 0; allowed: above 0"),
        ({"seed": 2**32}, "--seed: got 4294967296; allowed: .*0 to 4294967295"),
        ({"device": "gpu"}, "--device: got 'gpu'; allowed: auto, cpu, cuda, cuda:N, mps"),
        ({"batch_size": 0}, "--batch-size: got 0; allowed: .*1 or more"),
        ({"workers": -1}, "--workers: got -1"),
        ({"limit_train": 0}, "--limit-train: got 0; allowed: 1 or more"),
        ({"limit_test": "many"}, "--limit-test: got 'many'"),
        ({"distill": "maybe"}, "--distill: got 'maybe'; allowed: true or false"),
        ({"onnx": "no"}, "--onnx: got 'no'; allowed: true or false"),
        ({"track": "wandb"}, "--track: got 'wandb'; allowed: mlflow, tensorboard.* none"),
        ({"track": "mlflow,none"}, "--track: got 'mlflow,none'"),
        ({"track": ["mlflow", "mlflow"]}, "--track: mlflow is given twice"),
        ({"tracking_uri": "http://me:secret@host"}, "^--tracking-uri: (?!.*secret).* password"),
        ({"tracking_uri": ""}, "--tracking-uri: got ''; allowed: a URI"),
        ({"experiment": " "}, "--experiment: got ' '; allowed: text"),
        ({"out": ""}, "--out: got ''; allowed: a path"),
        ({"bit": 4}, "unknown option 'bit'; did you mean 'bits'"),
    ],
)
def test_refusals(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        Options(**({"config": "3,3,3,2"} if values and "config" not in values else {}), **values)


@pytest.mark.parametrize("name", CHOICES["track"])
def test_a_tracker_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()  # a folder of that name, of the tracker's own making, is not the library
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(OptionsError, match=rf"--track.*'{name}'.*seriesquant\[{name}\]"):
        Options(config="3,3,3,2", track=name)


def test_every_mistake_is_reported_together() -> None:
    with pytest.raises(OptionsError) as caught:
        parse_command(["--config", "0", "--bits", "9", "--epochs", "x", "--device", "tpu"])
    message = str(caught.value)
    assert all(words in message for words in ("'0', whose order is 0", "--bits", "--epochs", "--device"))
    assert "--model" not in message


def test_a_scheme_that_the_backend_lacks_is_reported_with_all_other_mistakes() -> None:
    with pytest.raises(OptionsError) as caught:
        Options(config="3,3,3,2", bits="9", scheme="minifloat", backend="torch.ao", epochs=-1)
    assert all(f"{flag}: got" in str(caught.value) for flag in ("--bits", "--scheme", "--epochs"))


def test_minifloat_is_part_of_the_command() -> None:
    options = Options(config="3,3,3,2", scheme="minifloat")
    assert options.command() == "python run_pipeline.py --config 3,3,3,2 --scheme minifloat"
    assert _again(options) == options


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--confg", "3"], "there is no flag --confg; did you mean --config"),
        (["--zzz"], "there is no flag --zzz; see --help"),
        (["--config"], "option '--config' requires an argument"),
        (["3,3,3,2"], "unexpected extra argument"),
    ],
)
def test_wrong_command_lines(argv: list[str], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        parse_command(argv)


YAML = "config: 6,3,3,2,2\nbits: [4]\nqat-epochs: 2\nlr: 1e-3\nout:\n"
TOML = 'config = ["6,3,3,2,2"]\nbits = 4\nqat_epochs = 2\nlr = 1e-3\n'


@pytest.mark.parametrize(("name", "text"), [("o.yaml", YAML), ("o.YML", YAML), ("o.toml", TOML)])
def test_options_file_and_the_flags_that_win_over_it(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    expected = {"config": "6,3,3,2,2", "bits": 4, "qat_epochs": 2, "lr": 1e-3}
    assert Options(**load_options_file(path)) == Options(**expected)
    assert parse_command(["--options", str(path), "--bits", "8"]) == Options(**{**expected, "bits": 8})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "o.yaml",
            b"bit: 4\nconfg: x\n",
            "unknown option 'bit'; did you mean 'bits'.; unknown option 'confg'; did you",
        ),
        ("o.yaml", b"qat-epochs: 1\nqat_epochs: 2\n", "gives qat_epochs twice"),
        ("o.yaml", b"zzzzzz: 1\n", "unknown option 'zzzzzz'; allowed: config, .*bits"),
        ("o.yaml", b"- 3\n", "holds a list; allowed: a .yaml"),
        ("o.yaml", b"a: [\n", "cannot be parsed"),
        ("o.toml", b"a = \n", "cannot be parsed"),
        ("o.toml", b"\xff", "cannot be parsed"),
        ("o.json", b"{}", "has the suffix '.json'; allowed"),
        ("absent.yaml", None, "cannot be read: No such file"),
    ],
)
def test_wrong_options_files(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionsError, match=words) as caught:
        load_options_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_empty_options_file_gives_nothing(tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text("# nothing yet\n")
    assert load_options_file(tmp_path / "o.yaml") == {}


def test_ray_needs_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Options(config="3,3,3,2", executor="ray").executor == "ray"
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(OptionsError, match=r"--executor.*'ray'.*seriesquant\[ray\]"):
        Options(config="3,3,3,2", executor="ray")
    assert Options(config="3,3,3,2").executor == "local"


@pytest.mark.parametrize(("name", "value"), [("ray_address", "head:6379"), ("ray_cpus", 2), ("ray_gpus", 0.5)])
def test_options_of_ray_alone(name: str, value: object) -> None:
    flag = name.replace("_", "-")
    with pytest.raises(OptionsError, match=rf"--{flag}.*{value!r}.*local.*allowed.* ray"):
        Options(config="3,3,3,2", **{name: value})
    options = Options(config="3,3,3,2", executor="ray", **{name: value})
    assert getattr(options, name) == value
    assert _again(options) == options


@pytest.mark.parametrize("name", ["data", "weights", "model", "out", "cache_dir"])
def test_names_that_are_no_text_are_refused(name):
    with pytest.raises(OptionsError, match=r"--.*\\udce9.*UTF-8") as caught:
        Options(**{"config": "3,2", "bits": 4, name: "caf\udce9"})
    assert str(caught.value).encode("utf-8")


@pytest.mark.parametrize("name", ["weights", "data", "out", "cache_dir"])
def test_a_tilde_is_the_home_folder(name, monkeypatch):
    """Shells leave it in `--out=~/runs`."""
    monkeypatch.setenv("HOME", "/home/of/a/test")
    found = {path: str(getattr(Options(config="3,3,3,2", **{name: path}), name)) for path in PATHS}
    assert found == PATHS


PATHS = {"~/a.pt": "/home/of/a/test/a.pt", "a~": "a~", "~nobody-of-this-name/a": "~nobody-of-this-name/a"}


def test_a_file_in_the_folder_stays_a_file():
    assert Options(config="3,3,3,2", weights="./DEFAULT").weights == "./DEFAULT"
