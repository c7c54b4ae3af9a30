"""The notebook runs from top to bottom, and holds its outputs.

Its cells are plain Python, so they are run in one namespace. A kernel, which nbclient would need, adds no check.
"""

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "compress.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def figures_of(text: str) -> list[float]:
    """The values of Top-1 in a text."""
    return [float(value) for value in re.findall(r"Top-1 ([\d.]+)", text)]


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_its_cells_run_and_show_what_it_holds(cells, tmp_path, monkeypatch, capsys) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    monkeypatch.chdir(tmp_path)
    before = mpl.get_backend()
    plt.switch_backend("Agg")
    namespace: dict[str, object] = {"__name__": "__main__"}
    shown = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile(source(cell), f"cell {number}", "exec"), namespace)
            shown.append(len(plt.get_fignums()))
            plt.close("all")
    plt.switch_backend(before)
    assert shown == [sum(each["output_type"] == "display_data" for each in cell["outputs"]) for cell in code(cells)]
    assert sum(shown) == 2
    printed, held = capsys.readouterr().out, "".join(text_of(cell) for cell in code(cells))
    assert len(figures_of(printed)) == len(figures_of(held)) == 9
    assert min(figures_of(printed)[2:]) > figures_of(printed)[0] - 5  # all after the approximation alone
    assert "True Top-1" in printed
    assert (tmp_path / "digits.safetensors").is_file()


def code(cells: list[dict]) -> list[dict]:
    return [cell for cell in cells if cell["cell_type"] == "code"]


def text_of(cell: dict) -> str:
    return "".join("".join(each["text"]) for each in cell["outputs"] if each["output_type"] == "stream")


def test_it_is_small_and_was_run_in_order(cells) -> None:
    assert NOTEBOOK.stat().st_size < 100_000
    assert [cell["execution_count"] for cell in code(cells)] == list(range(1, len(code(cells)) + 1))
    assert not any("Error" in text_of(cell) for cell in code(cells))
    assert len({cell["id"] for cell in cells}) == len(cells)
