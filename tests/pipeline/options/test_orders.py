import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import OptionsError
from pipeline.options.orders import Config, default_model, parse_config

COUNTS = st.integers(1, 999_999)
SPACES = st.sampled_from(["", " ", "  "])


@given(st.lists(COUNTS, min_size=1, max_size=12), SPACES)
def test_stages_round_trip(orders: list[int], space: str) -> None:
    config = parse_config(f"{space},{space}".join(map(str, orders)))
    assert config == Config(",".join(map(str, orders)), "stages", tuple(orders))
    assert parse_config(config.text) == config


@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=8), SPACES, st.sampled_from("xX\u00d7"))
def test_blocks_round_trip(blocks: list[tuple[int, int]], space: str, sign: str) -> None:
    config = parse_config(",".join(f"{space}{order}{space}{sign}{space}{repeat}" for order, repeat in blocks))
    assert config.text == ",".join(f"{order}x{repeat}" for order, repeat in blocks)
    assert tuple(zip(config.orders, config.repeats, strict=True)) == tuple(blocks)
    assert parse_config(config.text) == config


@given(st.text(max_size=20))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        config = parse_config(text)
    except OptionsError:
        return
    assert parse_config(config.text) == config


@pytest.mark.parametrize("text", ["dense", " Dense ", "DENSE"])
def test_dense(text: str) -> None:
    assert parse_config(text) == Config("dense", "dense")


def test_auto() -> None:
    assert parse_config(" Auto ") == Config("auto", "auto")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "config is empty"),
        ("  ", "config is empty"),
        ("6,,3", "'6,,3' has an empty token at place 2 of 3"),
        ("6,3,", "empty token at place 3"),
        ("dense,3", "mixes 'dense' with other tokens"),
        ("3,auto", "mixes 'auto' with other tokens"),
        ("3,7x3", "mixes the order '3' with NxM blocks"),
        ("3,0", "has '0', whose order is 0; allowed: 1 or more"),
        ("-3", "has '-3', whose order is -3; allowed: 1 or more"),
        ("7x0", "has '7x0', whose number of blocks is 0"),
        ("0x7", "has '0x7', whose order is 0"),
        ("3.5", "whose order is not a whole number"),
        ("three", "has 'three', whose order is not a whole number"),
        ("six,3", "has 'six', whose order is not a whole number"),
        ("6 3", "has '6 3', whose order is not a whole number"),
        ("x3", "has 'x3', whose order is not a whole number"),
        ("7x", "has '7x', whose number of blocks is not a whole number"),
        ("7x3x2", "whose number of blocks is not a whole number"),
        ("9" * 5000, "whose order is too large"),
    ],
)
def test_refusals_teach(text: str, words: str) -> None:
    with pytest.raises(OptionsError) as caught:
        parse_config(text)
    assert words in str(caught.value)
    assert "allowed: " in str(caught.value)


@pytest.mark.parametrize(
    ("texts", "model"),
    [
        (["6,3,3,2,2"], "resnet18"),
        (["3,3,3,2", "dense", "2,2,2,2"], "resnet20"),
        (["7x3,6x3"], "convnext_tiny"),
    ],
)
def test_default_model(texts: list[str], model: str) -> None:
    assert default_model([parse_config(text) for text in texts]) == model


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["dense"], "'dense'.* --model"),
        (["auto"], "'auto'.* --model"),
        (["3,3,3"], "'3,3,3'.*--model.*5 .*resnet18"),
        (["3,3,3,2", "6,3,3,2,2"], "'3,3,3,2' .*resnet20.* '6,3,3,2,2' .*resnet18"),
    ],
)
def test_no_default_model(texts: list[str], words: str) -> None:
    with pytest.raises(OptionsError, match=words):
        default_model([parse_config(text) for text in texts])
