import pytest

from reports import text
from reports.text import model_name, row_name, width_name


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("resnet18", "ResNet-18"),
        ("resnet110", "ResNet-110"),
        ("convnext_tiny", "ConvNeXt-T"),
        ("wide_resnet50_2", "Wide ResNet-50-2"),
        ("resnext50_32x4d", "ResNeXt-50 32x4d"),
        ("vgg16_bn", "VGG-16 BN"),
        ("my_module:build", "my_module:build"),
    ],
)
def test_models_have_their_printed_names(name: str, printed: str) -> None:
    assert model_name(name) == printed


def test_rows_have_short_names(row) -> None:
    assert row_name(row("chebyshev", "3,3,3,2", 4, 90.0)) == "ChebConv 3,3,3,2 at 4 bits"
    assert row_name(row("cosine", "dense", 3, 90.0)) == "dense at 3 bits"


def test_stored_bits_stand_beside_bits_that_are_others(row) -> None:
    minifloat = row("cosine", "dense", 4, 90.0, scheme="minifloat", stored_bits=12)
    assert row_name(minifloat) == "dense at 4 bits (12 stored)"
    assert width_name(minifloat) == "4 (12 stored)"
    assert width_name(row("cosine", "dense", 4, 90.0)) == "4"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (44.69, "44.7"),
        (2.834, "2.83"),
        (0.07812, "0.0781"),
        (9.996, "10.0"),
        (1234.5, "1230"),
        (0.0, "0.00"),
        (None, "-"),
    ],
)
def test_megabytes_have_three_significant_digits(value: float | None, shown: str) -> None:
    assert text.megabytes(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(-0.556, "-0.56"), (0.3, "+0.30"), (-0.001, "0.00"), (None, "-")])
def test_signed_shows_the_sign_unless_it_rounds_to_zero(value: float | None, shown: str) -> None:
    assert text.signed(value) == shown


def test_figures_not_measured_are_a_dash() -> None:
    assert [text.points(None), text.count(None), text.error(None)] == ["-", "-", "-"]


def test_markup_in_a_cell_is_escaped_and_lines_are_joined() -> None:
    assert text.escape("a|b\n*c* `d` <e> [f] _g_ conv_1") == r"a\|b \*c\* \`d\` \<e\> \[f\] \_g\_ conv_1"


def test_a_pipe_does_not_add_a_column() -> None:
    table = text.draw(["a", "b"], [["x|y", "1"]])
    assert table.splitlines()[2].replace("\\|", "").count("|") == 3
    assert "x|y" in text.draw(["a", "b"], [["x|y", "1"]], style="plain")


def test_one_thing_has_no_plural() -> None:
    assert [text.quantity(number, "thread") for number in (1, 2, 1437)] == ["1 thread", "2 threads", "1,437 threads"]
