"""Options of rows of a target, and the networks that they make."""

import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.arguments import read_flags
from pipeline.errors import OptionsError
from pipeline.options.file import write_options_file
from pipeline.options.grid import Target, variants
from pipeline.options.options import Options, load_options_file, options_from

SIZES = st.lists(st.integers(1, 10**9).map(lambda size: size / 1e6), min_size=1, max_size=3, unique=True)


def parse_command(argv: list[str]) -> Options:
    flags = read_flags(argv, Options.model_fields)
    assert flags is not None
    return options_from(flags.values, flags.options_file)


def test_a_target_needs_no_config() -> None:
    options = parse_command(["--model", "resnet20", "--target-mb", "0.06, 0.04"])
    assert (options.config, options.target_mb, options.target_drop) == (("auto",), (0.06, 0.04), None)
    assert options.command() == "python run_pipeline.py --target-mb 0.06,0.04 --model resnet20"
    assert str(options.out) == "runs/resnet20-digits-auto"


def test_a_config_is_the_largest_order_and_names_the_network() -> None:
    options = Options(config=["3,3,2,2", "2,2,2,2"], target_drop="0.5")
    assert (options.model, options.target_drop) == ("resnet20", 0.5)
    assert options.command() == "python run_pipeline.py --config 3,3,2,2 --config 2,2,2,2 --target-drop 0.5"


@given(
    sizes=st.just([]) | SIZES,
    drop=st.none() | st.floats(1e-6, 100),
    config=st.sampled_from(["auto", None, "3,3,2,2", ["auto", "3,3,2,2"]]),
    dense_bits=st.sampled_from([(), (4, 3)]),
)
def test_command_and_options_file_repeat_the_options(tmp_path_factory, sizes, drop, config, dense_bits) -> None:
    if not sizes and drop is None:
        sizes = [0.04]
    options = Options(config=config, model="resnet20", target_mb=sizes, target_drop=drop, dense_bits=dense_bits)
    assert parse_command(shlex.split(options.command())[2:]) == options
    path = write_options_file(tmp_path_factory.mktemp("o") / "o.yaml", options.model_dump(mode="json"))
    assert Options(**load_options_file(path)) == options


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e-9", "a", "", "0.04,", True, [0.04, "x"]])
def test_sizes_that_are_none(value: Any) -> None:
    with pytest.raises(OptionsError, match=r"--target-mb: got .*allowed: MB .*0\.000001"):
        Options(config="3,3,2,2", target_mb=value)


@pytest.mark.parametrize("value", [0, -0.5, "nan", "inf", True, "a"])
def test_losses_that_are_none(value: Any) -> None:
    with pytest.raises(OptionsError, match=r"--target-drop: got .*allowed: .*above 0"):
        Options(config="3,3,2,2", target_drop=value)


def test_a_size_that_is_given_twice() -> None:
    with pytest.raises(OptionsError, match=r"--target-mb: 0\.04 is given twice"):
        Options(config="3,3,2,2", target_mb="0.04,0.0400000001")  # the same number of bytes


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        ("bits", (4,), "4"),
        ("scheme", "minifloat", "minifloat"),
        ("backend", "torch.ao", "torch.ao"),
        ("rounding", "nearest", "nearest"),
        ("fit", "weights", "weights"),
        ("qat_epochs", 1, "1"),
    ],
)
@pytest.mark.parametrize("target", [{"target_mb": 0.04}, {"target_drop": 1}])
def test_an_option_that_rows_of_a_target_do_not_use(name: str, value: object, got: str, target: dict[str, Any]) -> None:
    flag, (other,) = f"--{name.replace('_', '-')}", (f"--{key.replace('_', '-')}" for key in target)
    with pytest.raises(OptionsError, match=rf"{flag}: got {got} .*{other}.*allowed: .*{flag}"):
        Options(config="3,3,2,2", **{name: value}, **target)
    default = Options.model_fields[name].default
    assert getattr(Options(config="3,3,2,2", **{name: default}, **target), name) == default


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": ["3,3,2,2", "dense"], "target_mb": 0.04}, "--config: got 'dense' beside a target.*--dense-bits"),
        ({"config": "auto", "model": "resnet20"}, "--config: got 'auto' without --target-mb or --target-drop"),
        ({"config": "auto", "model": "resnet20", "target_mb": []}, "--config: got 'auto' without --target-mb"),
        ({"target_mb": 0.04}, "'auto' fits every network; pass --model"),
        ({"config": "3,auto", "target_mb": 0.04}, "'3,auto' mixes 'auto' with other tokens"),
        ({"target_mb": []}, "--config: is missing"),
    ],
)
def test_configs_that_do_not_fit_a_target(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        Options(**options)


def test_each_basis_and_cap_is_one_network_with_all_targets() -> None:
    options = Options(
        model="resnet20", config=["auto", "3,3,2,2"], basis="cosine,chebyshev", target_mb="0.06,0.04", target_drop=0.5,
        dense_bits=3, epochs=2,
    )  # fmt: skip
    found = [(v.config.text, v.bases, v.bits, v.epochs, [t.label for t in v.targets]) for v in variants(options)]
    labels = ["0.06mb", "0.04mb", "drop0.5"]
    series = [(config, (basis,), (), 2, labels) for config in ("auto", "3,3,2,2") for basis in ("cosine", "chebyshev")]
    assert found == [*series, ("dense", ("cosine", "chebyshev"), (3,), 2, [])]
    assert variants(options)[0].name == "cosine auto"


@given(SIZES)
def test_targets_of_different_sizes_have_different_labels(sizes: list[float]) -> None:
    labels = {Target(megabytes=size).label for size in sizes}
    assert len(labels) == len(sizes)
    assert not any("/" in label or " " in label for label in labels)


@given(st.integers(1, 10**8))
def test_a_file_of_a_target_size_is_at_most_3_percent_smaller(hundreds: int) -> None:
    target, most = Target(megabytes=hundreds / 1e4), 100 * hundreds
    sizes = (97 * hundreds - 1, 97 * hundreds, most, most + 1)
    assert target.bytes == most
    assert [target.fits(size) for size in sizes] == [False, True, True, False]
    assert Target(drop=1.0).fits(most)


def test_dense_rows_beside_a_target_use_the_backend():
    options = Options(config="3,3,2,2", model="resnet20", target_mb=0.04, dense_bits=4, backend="torch.ao")
    assert options.backend == "torch.ao"
