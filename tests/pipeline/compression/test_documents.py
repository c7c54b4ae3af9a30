"""The five numbered snippets that open the documents run as they are written."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
STEPS = ["1. Approximate", "2. Fit", "3. Fine-tune", "4. Quantize", "5. Save and load"]


def executed(text: str) -> dict[str, object]:
    """Run the Python blocks of a text one after another, as in a notebook."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "snippet", "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def steps(text: str, mark: str) -> list[str]:
    return re.findall(rf"^{mark}(\d\. [A-Z][a-z -]+[a-z])", text, re.MULTILINE)


def test_the_snippets_of_the_readme_run(capsys):
    opening = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## ")[0]
    assert steps(opening, r"\*\*") == STEPS
    found = executed(opening)
    assert re.search(r"^(\d+) bytes became (\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert found["result"].size < found["result"].baseline_size / 3
    assert torch.equal(found["small"](found["images"]), found["result"].network(found["images"]))


def test_the_snippets_of_the_page_run_and_lose_little(capsys):
    opening = (ROOT / "docs" / "library.md").read_text(encoding="utf-8").partition("\n## A whole run\n")[0]
    assert steps(opening, "## ") == STEPS
    executed(opening)
    printed = capsys.readouterr().out
    found = {name: float(top1) for name, top1 in re.findall(r"^(.+): Top-1 ([\d.]+)", printed, re.MULTILINE)}
    baseline = float(re.search(r" of ([\d.]+)", printed)[1])
    assert list(found) == ["approximated", "fitted", "fine-tuned", "at 4 bits", "trained by hand"]
    assert baseline > 85
    assert min(found["fitted"], found["fine-tuned"], found["at 4 bits"], found["trained by hand"]) > baseline - 4
    before, after = map(int, re.search(r"(\d+) bytes became (\d+)", printed).groups())
    assert after < before / 10
