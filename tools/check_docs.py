"""Check that what the documents say still holds: their links, and the commands they show.

Run it from anywhere as `python tools/check_docs.py`; it prints one line per mistake and exits with 1 when there is one.

Links: a relative link must lead to a file inside the project, and its `#anchor` to a heading of that document.
Commands, in blocks fenced as `sh`, `bash` or `console`: the project's own command line must take the options,
`make` must have the target, and the scripts and test paths must exist. Nothing is run.
"""

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
FOLDERS = ("docs", "benchmarks")
SHELLS = ("sh", "bash", "console")
PYTEST_OPTIONS_WITH_VALUE = ("-m", "-k", "-p", "-n", "-o", "-c", "-W", "-r")

Parse = Callable[[list[str]], object]


@dataclass(frozen=True)
class Line:
    """One line of a document; `fence` is None in prose, else the language of the block that it stands in."""

    number: int
    text: str
    fence: str | None


def documents(root: Path) -> list[Path]:
    """Every document that is checked, whether it exists or not."""
    return [root / name for name in REQUIRED] + [
        path for name in FOLDERS for path in sorted((root / name).rglob("*.md"))
    ]


def read_lines(text: str) -> Iterator[Line]:
    """Tell prose from fenced blocks; the fences themselves are left out."""
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
    """The target of every link and image in the prose, with its line number."""
    target = re.compile(r"""\]\(\s*<?([^)\s>]+)|^\s*\[[^\]]+\]:\s*<?([^\s>]+)|\b(?:src|href)=["']([^"']+)""")
    for line in lines:
        if line.fence is None:
            for match in target.finditer(re.sub(r"`[^`]*`", "", line.text)):
                yield line.number, match[1] or match[2] or match[3]


def anchors(lines: list[Line]) -> set[str]:
    """The anchors of a document as GitHub makes them from its headings: `## Set-up, twice` is `set-up-twice`."""
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
    """What is wrong with a link, or None; links to other sites are not looked at."""
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


def command_lines(lines: list[Line]) -> Iterator[tuple[int, str]]:
    """Every command line of the shell blocks, its backslash continuations joined, with the number of its first line."""
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
    """Split a line at `&&`, `|` and `;`, without its comments, redirections and leading `NAME=value` words.

    Raises:
        ValueError: If a quotation is not closed.
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
    """What is wrong with a command, or None; `parse` raises a ValueError on options that the project does not take."""
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
    """Ask the project's own command line; `--help` it always answers, and with it there is nothing to parse."""
    if arguments == ["--help"]:
        return None
    try:
        parse(arguments)
    except ValueError as error:
        return f"the command line refuses {shlex.join(arguments)}: {error}"
    return None


def check_python(arguments: list[str], root: Path, parse: Parse) -> str | None:
    """A script must exist; `run_pipeline.py` takes the project's options and `-m pytest` takes pytest's."""
    if arguments[:2] == ["-m", "pytest"]:
        return check_pytest(arguments[2:], root)
    if not arguments or not arguments[0].endswith(".py"):
        return None
    if problem := missing_path(arguments[0], root):
        return problem
    return check_options(arguments[1:], parse) if arguments[0] == "run_pipeline.py" else None


def check_pytest(arguments: list[str], root: Path) -> str | None:
    """Every path to tests must exist."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if argument.startswith("-") or before in PYTEST_OPTIONS_WITH_VALUE:
            continue
        if problem := missing_path(argument.partition("::")[0], root):
            return problem
    return None


def check_make(arguments: list[str], root: Path) -> str | None:
    """Every target must be in the Makefile."""
    targets = re.findall(r"^([\w-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    unknown = [word for word in arguments if not word.startswith("-") and "=" not in word and word not in targets]
    return f"the Makefile has no target {', '.join(unknown)}" if unknown else None


def missing_path(path: str, root: Path) -> str | None:
    """A sentence if the path, taken from the project's root, is not there."""
    return None if (root / path).exists() else f"{path} does not exist"


def check_document(document: Path, root: Path, parse: Parse) -> list[str]:
    """Every mistake in one document, as `README.md:12: ...`."""
    name = document.relative_to(root)
    if not document.is_file():
        return [f"{name}: the file is missing"]
    lines = list(read_lines(document.read_text(encoding="utf-8")))
    found = [(number, check_link(target, document, root)) for number, target in links(lines)]
    for number, line in command_lines(lines):
        try:
            found += [(number, check_command(words, root, parse)) for words in simple_commands(line)]
        except ValueError as error:
            found.append((number, f"this is not a shell command ({error}): {line}"))
    return [f"{name}:{number}: {problem}" for number, problem in sorted(found, key=lambda each: each[0]) if problem]


def parse_options(arguments: list[str]) -> object:
    """Read a command line as the program does; imported late, for the project must be on the path."""
    from pipeline.cli.entry import read_command_line

    return read_command_line(arguments)


def main(root: Path = ROOT, parse: Parse = parse_options) -> int:
    """Check every document; the exit code is 1 when something is wrong."""
    checked = documents(root)
    problems = [problem for document in checked for problem in check_document(document, root, parse)]
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(checked)} documents, {len(problems)} mistakes")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
