"""Check the links and commands of the documents, and refuse merge-conflict markers in every tracked text file.

Run it from any folder as ``python tools/check_docs.py``. It prints one line per mistake. If there is one, it
exits with 1.

Links: a relative link must lead to a file inside the project, and its ``#anchor`` to a heading of that document.
Commands are read from blocks fenced as ``sh``, ``bash`` or ``console``. The project's command line must accept the
options, the Makefile must have the target, and the scripts and test paths must exist. No command is run.
Lines of prose, without tables and images, have at most 120 characters.
Conflict markers: no file that git tracks may hold a line that ``git merge`` left behind.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
FOLDERS = ("docs", "benchmarks")
SHELLS = ("sh", "bash", "console")
CONFLICT_MARKER = re.compile(r"(<{7}|>{7}|\|{7}) |={7}$|(<{7}|>{7}|\|{7})$")
LONGEST_LINE = 120
PYTEST_OPTIONS_WITH_VALUE = ("-m", "-k", "-p", "-n", "-o", "-c", "-W", "-r")

Parse = Callable[[list[str]], object]


@dataclass(frozen=True)
class Line:
    """One line of a document. ``fence`` is the language of the enclosing code block, or None in prose."""

    number: int
    text: str
    fence: str | None


def documents(root: Path) -> list[Path]:
    """Return every document to check, including required ones that are missing."""
    return [root / name for name in REQUIRED] + [
        path for name in FOLDERS for path in sorted((root / name).rglob("*.md"))
    ]


def read_lines(text: str) -> Iterator[Line]:
    """Yield the lines of a document, labelled as prose or code. The fences themselves are left out."""
    opened, language = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r"\s*(`{3,}|~{3,})\s*(\S*)", line)
        if fence and not opened:
            opened, language = fence[1], fence[2].lower()
        elif fence and fence[1].startswith(opened) and not fence[2]:
            opened, language = "", None
        else:
            yield Line(number, line, language)


def links(lines: list[Line]) -> Iterator[tuple[int, str]]:
    """Yield the line number and the target of every link and image in the prose."""
    target = re.compile(r"""\]\(\s*<?([^)\s>]+)|^\s*\[[^\]]+\]:\s*<?([^\s>]+)|\b(?:src|href)=["']([^"']+)""")
    for line in lines:
        if line.fence is None:
            for match in target.finditer(re.sub(r"`[^`]*`", "", line.text)):
                yield line.number, match[1] or match[2] or match[3]


def anchors(lines: list[Line]) -> set[str]:
    """Return the anchors of a document, as GitHub derives them: ``## Set-up, twice`` becomes ``set-up-twice``."""
    found: set[str] = set()
    for line in lines:
        if line.fence is not None:
            continue
        found.update(re.findall(r"""<a\s+(?:id|name)=["']([^"']+)""", line.text))
        if heading := re.match(r"#{1,6}\s+(.*?)[\s#]*$", line.text):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            repeated = sum(1 for anchor in found if re.fullmatch(re.escape(slug) + r"(-\d+)?", anchor))
            found.add(f"{slug}-{repeated}" if slug in found else slug)
    return found


def check_link(target: str, document: Path, root: Path) -> str | None:
    """Return the mistake in a link, or None. Links to other sites are not checked."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target, re.IGNORECASE):
        return None
    name, _, anchor = target.partition("#")
    path = (document.parent / unquote(name)).resolve() if name else document
    if not path.is_relative_to(root.resolve()):
        return f"the link {target} leads out of the project"
    if not path.exists():
        return f"the link {target} leads to nothing"
    if anchor and path.suffix == ".md" and anchor not in anchors(list(read_lines(path.read_text(encoding="utf-8")))):
        return f"the link {target} names a heading that {path.name} does not have"
    return None


def check_length(line: Line) -> str | None:
    """Return the mistake of a line of prose that is too long, or None. Tables and images have any length."""
    long = line.fence is None and len(line.text) > LONGEST_LINE and not line.text.startswith(("|", "!["))
    return f"the line has {len(line.text)} characters, allowed are {LONGEST_LINE}" if long else None


def command_lines(lines: list[Line]) -> Iterator[tuple[int, str]]:
    """Yield every command line of the shell blocks with its first line number. Continuation lines are joined."""
    start, joined = 0, ""
    for line in lines:
        if line.fence not in SHELLS:
            continue
        text = line.text.strip()
        if joined:
            text = text.removeprefix("> ")
        elif text.startswith("$ "):
            text = text[2:]
        elif line.fence == "console":
            continue  # what the command printed
        start = start if joined else line.number
        joined += text
        if joined.endswith("\\"):
            joined = joined[:-1] + " "
            continue
        if joined:
            yield start, joined
        joined = ""
    if joined:
        yield start, joined


def simple_commands(line: str) -> Iterator[list[str]]:
    """Split a line at ``&&``, ``|`` and ``;``. Drop comments, redirections and leading ``NAME=value`` words.

    Raises:
        ValueError: A quotation is not closed.
    """
    without_descriptors = re.sub(r"(?<=\s)\d(?=>)", "", line)  # the 2 of `2>&1` is no argument
    lexer = shlex.shlex(without_descriptors, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for token in [*lexer, ";"]:
        if set(token) <= set("<>&") and set(token) & set("<>"):
            redirected = True
        elif set(token) <= set("&|;()"):
            if words:
                yield words
            words = []
        elif redirected:
            redirected = False
        elif words or not re.match(r"\w+=", token):
            words.append(token)


def check_command(words: list[str], root: Path, parse: Parse) -> str | None:
    """Return the mistake in a command, or None. ``parse`` raises ValueError for options that the project rejects."""
    program, arguments = words[0], words[1:]
    name = Path(program).name
    if name == "seriesquant":
        return check_options(arguments, parse)
    if re.fullmatch(r"python[\d.]*", name):
        return check_python(arguments, root, parse)
    if name == "pytest":
        return check_pytest(arguments, root)
    if name == "make":
        return check_make(arguments, root)
    if "/" in program and not program.startswith(("/", "$", "~", ".venv/")):
        return missing_path(program, root)
    return None


def check_options(arguments: list[str], parse: Parse) -> str | None:
    """Parse the arguments with the project's command line. ``--help`` alone is always accepted."""
    if arguments == ["--help"]:
        return None
    try:
        parse(arguments)
    except ValueError as error:
        return f"the command line refuses {shlex.join(arguments)}: {error}"
    return None


def check_python(arguments: list[str], root: Path, parse: Parse) -> str | None:
    """Check that a script exists, and check the arguments of ``run_pipeline.py`` and ``-m pytest``."""
    if arguments[:2] == ["-m", "pytest"]:
        return check_pytest(arguments[2:], root)
    if not arguments or not arguments[0].endswith(".py"):
        return None
    if problem := missing_path(arguments[0], root):
        return problem
    return check_options(arguments[1:], parse) if arguments[0] == "run_pipeline.py" else None


def check_pytest(arguments: list[str], root: Path) -> str | None:
    """Check that every test path exists."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument.startswith("-") or before in PYTEST_OPTIONS_WITH_VALUE:
            continue
        if problem := missing_path(argument.partition("::")[0], root):
            return problem
    return None


def check_make(arguments: list[str], root: Path) -> str | None:
    """Check that the Makefile has every target."""
    targets = re.findall(r"^([\w-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = [word for word in arguments if not word.startswith("-") and "=" not in word and word not in targets]
    return f"the Makefile has no target {', '.join(unknown)}" if unknown else None


def missing_path(path: str, root: Path) -> str | None:
    """Return the mistake if ``path``, relative to the project's root, does not exist; else None."""
    return None if (root / path).exists() else f"{path} does not exist"


def check_document(document: Path, root: Path, parse: Parse) -> list[str]:
    """Return every mistake in one document, as ``README.md:12: ...``."""
    name = document.relative_to(root)
    if not document.is_file():
        return [f"{name}: the file is missing"]
    lines = list(read_lines(document.read_text(encoding="utf-8")))
    found = [(number, check_link(target, document, root)) for number, target in links(lines)]
    found += [(line.number, check_length(line)) for line in lines]
    for number, line in command_lines(lines):
        try:
            found += [(number, check_command(words, root, parse)) for words in simple_commands(line)]
        except ValueError as error:
            found.append((number, f"this is not a shell command ({error}): {line}"))
    return [f"{name}:{number}: {problem}" for number, problem in sorted(found, key=lambda each: each[0]) if problem]


def tracked_files(root: Path) -> list[Path]:
    """Return the existing files that git tracks under ``root``; none if ``root`` is not in a git work tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    paths = (root / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


def conflict_markers(path: Path, root: Path) -> list[str]:
    """Return one mistake per merge-conflict marker of a file. Binary files have none."""
    content = path.read_bytes()
    if b"\0" in content:
        return []
    lines = content.decode("utf-8", errors="replace").split("\n")
    return [
        f"{path.relative_to(root)}:{number}: a merge-conflict marker is left: {line.rstrip()}"
        for number, line in enumerate(lines, start=1)
        if CONFLICT_MARKER.match(line.rstrip())
    ]


def parse_options(arguments: list[str]) -> object:
    """Parse a command line as the program does. Imported late because ``main`` first puts the project on the path."""
    from pipeline.cli.entry import read_command_line

    return read_command_line(arguments)


def main(root: Path = ROOT, parse: Parse = parse_options) -> int:
    """Check every document and tracked file. Return the exit code: 1 if there is a mistake, else 0."""
    checked = documents(root)
    problems = [problem for document in checked for problem in check_document(document, root, parse)]
    problems += [problem for path in tracked_files(root) for problem in conflict_markers(path, root)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(checked)} documents, {len(problems)} mistakes")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
