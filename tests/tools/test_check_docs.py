"""The documents' checker, on documents written for it."""

import subprocess
from pathlib import Path

import pytest

from tools import check_docs


def parse(arguments: list[str]) -> None:
    """Stands in for the project's command line: it takes --bits and --config, each with a value."""
    names, values = arguments[::2], arguments[1::2]
    if len(names) != len(values) or not set(names) <= {"--bits", "--config"}:
        raise ValueError(f"unknown options in {arguments}")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in check_docs.REQUIRED:
        (tmp_path / name).write_text("# Title\n")
    (tmp_path / "Makefile").write_text(".PHONY: run\nVENV := .venv\nrun: x\n\techo\n")
    (tmp_path / "run_pipeline.py").touch()
    (tmp_path / "tests" / "basis").mkdir(parents=True)
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    return tmp_path


def problems(project: Path, text: str, name: str = "README.md") -> list[str]:
    document = project / name
    document.write_text(text)
    return check_docs.check_document(document, project, parse)


def shell(*lines: str, language: str = "sh") -> str:
    return "\n".join([f"```{language}", *lines, "```", ""])


@pytest.mark.parametrize(
    "link",
    [
        "[a](CHANGELOG.md)",
        "[a](docs/)",
        '[a](CHANGELOG.md "its title")',
        "[a](CHANGELOG.md#title)",
        "[a](#here-2-there)",
        "[a](#again-1)",
        "[a](#hand-made)",
        "[a](https://example.org/nothing)",
        "[![a](run_pipeline.py)](Makefile#L3)",
        "[a]: CHANGELOG.md",
        '<img src="Makefile" width="3">',
        "`[a](nothing.md)`",
        "```python\n[a](nothing.md)\n```",
    ],
)
def test_links_that_resolve(project: Path, link: str) -> None:
    text = f'# Here: `2` there!\n# Again\n# Again\n<a id="hand-made"></a>\n{link}\n'
    assert problems(project, text) == []


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[a](nothing.md)", "README.md:2: the link nothing.md leads to nothing"),
        ("[![a](no.png)](Makefile)", "README.md:2: the link no.png leads to nothing"),
        (
            "[a](CHANGELOG.md#no)",
            "README.md:2: the link CHANGELOG.md#no names a heading that CHANGELOG.md does not have",
        ),
        ("[a](#no)", "README.md:2: the link #no names a heading that README.md does not have"),
        ("[a](../outside.md)", "README.md:2: the link ../outside.md leads out of the project"),
        ("[a]: nothing.md", "README.md:2: the link nothing.md leads to nothing"),
        ('<img src="no.png">', "README.md:2: the link no.png leads to nothing"),
    ],
)
def test_links_that_do_not(project: Path, link: str, problem: str) -> None:
    assert problems(project, f"# Title\n{link}\n") == [problem]


def test_a_link_starts_from_its_own_document(project: Path) -> None:
    assert problems(project, "[a](../../README.md#title)", "docs/deep/page.md") == []
    assert problems(project, "[a](README.md)", "docs/deep/page.md") == [
        "docs/deep/page.md:1: the link README.md leads to nothing"
    ]


def test_a_heading_inside_a_block_is_no_anchor(project: Path) -> None:
    assert len(problems(project, "```sh\n# comment\n```\n[a](#comment)\n")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "python run_pipeline.py --bits 4 --config 6,3,3,2,2",
        "python run_pipeline.py --bits 4 \\\n  --config $SERIESQUANT_DATA/cifar10.npz",
        "seriesquant --help",
        "seriesquant --config dense  # the uncompressed row",
        "seriesquant --config 3,3,3,2 > report.txt 2>&1 && make run",
        "SERIESQUANT_DATA=/data pytest -m real tests/basis::test_x",
        "python -m pytest -k 'fit and not slow' tests",
        "make -j2 run PYTHON=python3.12",
        "$ .venv/bin/python run_pipeline.py --bits 8",
        "git clone somewhere",
    ],
)
def test_commands_that_hold(project: Path, line: str) -> None:
    assert problems(project, shell(line)) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("python run_pipeline.py --bit 4", "the command line refuses --bit 4: unknown options"),
        (".venv/bin/python3.11 run_pipeline.py --bits", "refuses --bits"),
        ("python run_pipeline.py --bits 4 \\\n  --configs 6", "refuses --bits 4 --configs 6"),
        ("cd there && seriesquant --oops 1 | tee log", "refuses --oops 1"),
        ("make run tests", "the Makefile has no target tests"),
        ("python tools/nothing.py", "tools/nothing.py does not exist"),
        ("pytest tests/nothing.py::test_x", "tests/nothing.py does not exist"),
        ("python -m pytest tests/nothing", "tests/nothing does not exist"),
        (".ci/nothing", ".ci/nothing does not exist"),
        ("seriesquant --config '6", "this is not a shell command"),
    ],
)
def test_commands_that_do_not(project: Path, line: str, words: str) -> None:
    [problem] = problems(project, shell(line))
    assert problem.startswith("README.md:2: ")
    assert words in problem


def test_console_blocks_hold_output_too(project: Path) -> None:
    block = shell("$ make run", "seriesquant --oops", "$ seriesquant \\", "> --oops 1", language="console")
    [problem] = problems(project, block)
    assert problem.startswith("README.md:4: the command line refuses --oops 1")


def test_other_blocks_and_prose_are_no_commands(project: Path) -> None:
    assert problems(project, "python nothing.py\n" + shell("make nothing", language="text")) == []


def test_lines_of_prose_have_a_length(project: Path) -> None:
    long = "w" * 121
    [problem] = problems(project, f"{long}\n{long[1:]}\n| {long} |\n![{long}](README.md)\n```text\n{long}\n```\n")
    assert problem.startswith("README.md:1:")
    assert "121" in problem


def test_main_counts_and_fails(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_docs.main(project, parse) == 0
    (project / "docs" / "deep" / "page.md").write_text("[a](nothing.md)\n")
    (project / "CHANGELOG.md").unlink()
    assert check_docs.main(project, parse) == 1
    printed = capsys.readouterr()
    assert printed.out == "3 documents, 0 mistakes\n4 documents, 2 mistakes\n"
    assert printed.err.splitlines() == [
        "CHANGELOG.md: the file is missing",
        "docs/deep/page.md:1: the link nothing.md leads to nothing",
    ]


@pytest.mark.parametrize("marker", ["<" * 7 + " HEAD", "=" * 7, ">" * 7 + " branch", "|" * 7 + " base"])
@pytest.mark.parametrize("name", ["README.md", "module.py", "Makefile"])
def test_a_conflict_marker_in_a_tracked_file_fails(
    project: Path, marker: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / name).write_text(f"# Title\n{marker}\n")
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    subprocess.run(["git", "add", name], cwd=project, check=True)
    assert check_docs.main(project, parse) == 1
    [problem] = capsys.readouterr().err.splitlines()
    assert problem.startswith(f"{name}:2: ")
    assert marker in problem


def test_other_rows_of_signs_and_binary_files_hold_no_conflict(project: Path) -> None:
    (project / "text.rst").write_text("Title\n========\na <<<<<<< b\n>>> x\n")
    (project / "binary").write_bytes(b"\0\n=======\n")
    for name in ("text.rst", "binary"):
        assert check_docs.conflict_markers(project / name, project) == []
