"""Options of parametric families: their defaults, the networks that they make, and what nothing would read."""

import shlex
from typing import Any

import pytest

from pipeline.cli.arguments import read_flags
from pipeline.errors import OptionsError
from pipeline.options.file import write_options_file
from pipeline.options.grid import variants
from pipeline.options.options import Options, load_options_file, options_from


def shown(options: Options) -> list[tuple[str, str, str, str]]:
    return [
        (",".join(each.bases), each.config.text, each.fit(options), each.rounding(options))
        for each in variants(options)
    ]


def test_a_family_alone_needs_no_config() -> None:
    options = Options(basis="fracsrf,fractional", model="resnet20")
    assert (options.config, options.fit, options.rounding) == (("all",), "weights", "nearest")
    assert str(options.out) == "runs/resnet20-digits-all"
    assert shown(options) == [("fracsrf", "all", "weights", "nearest"), ("fractional", "all", "weights", "nearest")]


def test_a_mix_has_one_network_for_a_family_and_keeps_the_linear_fit() -> None:
    options = Options(config=["3,3,2,2", "2,2,2,2"], basis="fractional,cosine", dense_bits=(4,))
    assert shown(options) == [
        ("cosine", "3,3,2,2", "activations", "gptq"),
        ("cosine", "2,2,2,2", "activations", "gptq"),
        ("fractional", "all", "weights", "nearest"),
        ("fractional,cosine", "dense", "activations", "gptq"),
    ]


def test_dense_rows_beside_a_family_keep_the_rounding() -> None:
    options = Options(config="dense", basis="fracsrf", model="resnet20", rounding="gptq")
    assert shown(options) == [("fracsrf", "all", "weights", "nearest"), ("fracsrf", "dense", "weights", "gptq")]


@pytest.mark.parametrize(
    "given",
    [
        {"basis": "fracsrf"},
        {"basis": ["fractional", "fracsrf"], "config": "dense"},
        {"basis": "fracsrf", "dense_bits": "4,3"},
        {"basis": "cosine,fracsrf", "config": "3,3,2,2"},
    ],
)
def test_command_and_options_file_repeat_the_options(tmp_path, given: dict[str, Any]) -> None:
    options = Options(model="resnet20", **given)
    flags = read_flags(shlex.split(options.command())[2:], Options.model_fields)
    assert flags is not None
    assert options_from(flags.values, flags.options_file) == options
    path = write_options_file(tmp_path / "o.yaml", options.model_dump(mode="json"))
    assert Options(**load_options_file(path)) == options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"basis": "fracsrf", "fit": "activations"}, r"--fit: got activations with --basis fracsrf.*allowed: weights"),
        ({"basis": "fracsrf", "rounding": "gptq"}, r"--rounding: got gptq with --basis fracsrf.*allowed: nearest"),
        ({"basis": "fracsrf", "target_mb": 0.04}, r"--basis: got fracsrf with --target-mb.*allowed: cosine, chebyshev"),
        ({"basis": "cosine,fractional", "target_drop": 1}, r"--basis: got fractional with --target-drop"),
        ({"basis": "fracsrf", "config": "3,3,2,2"}, r"--config: got '3,3,2,2' with --basis fracsrf.*no orders"),
        ({"basis": "cosine", "config": "all"}, r"--config: got 'all' with --basis cosine.*needs orders"),
        ({"basis": "cosine,fracsrf", "config": ["3,3,2,2", "all"]}, r"--config: got 'all' with --basis cosine,fracsrf"),
        ({"basis": "cosine,fracsrf"}, r"--config: is missing"),
        ({"basis": "haar"}, r"--basis: got 'haar'; allowed: cosine, chebyshev, fracsrf, fractional"),
    ],
)
def test_what_nothing_would_read_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        Options(model="resnet20", **given)


def test_a_family_alone_names_no_network() -> None:
    with pytest.raises(OptionsError, match=r"config 'all' fits every network; pass --model"):
        Options(basis="fracsrf")
