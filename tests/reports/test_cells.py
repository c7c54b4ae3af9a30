import pytest

from reports import cells


@pytest.mark.parametrize(
    ("value", "text"),
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
def test_megabytes_have_three_significant_digits(value: float | None, text: str) -> None:
    assert cells.megabytes(value) == text


@pytest.mark.parametrize(("value", "text"), [(-0.556, "-0.56"), (0.3, "+0.30"), (-0.001, "0.00"), (None, "-")])
def test_signed_shows_the_sign_unless_it_rounds_to_zero(value: float | None, text: str) -> None:
    assert cells.signed(value) == text


def test_figures_not_measured_are_a_dash() -> None:
    assert [cells.points(None), cells.count(None), cells.error(None)] == ["-", "-", "-"]


def test_markup_in_a_cell_is_escaped_and_lines_are_joined() -> None:
    assert cells.escape("a|b\n*c* `d` <e> [f] _g_ conv_1") == r"a\|b \*c\* \`d\` \<e\> \[f\] \_g\_ conv_1"


def test_a_pipe_does_not_add_a_column() -> None:
    table = cells.draw(["a", "b"], [["x|y", "1"]])
    assert table.splitlines()[2].replace("\\|", "").count("|") == 3
    assert "x|y" in cells.draw(["a", "b"], [["x|y", "1"]], style="plain")
