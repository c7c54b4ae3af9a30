"""Read and write options as YAML or TOML, under the names of the flags."""

import codecs
import difflib
import re
import tomllib
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.errors import OptionsError
from reports.files import write_atomically

_MARKS: Final = (  # UTF-32 first: its mark begins with the one of UTF-16
    ((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    ((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
)
_TEXT_TAG: Final = "tag:yaml.org,2002:str"
_NUMBER_TAGS: Final = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
_RECODED: Final = re.compile(r"^[-+]?0[0-7_]+$|:|^\d{4}-\d")
"""Plain values that YAML 1.1 takes as octal numbers, numbers in base 60, and dates; YAML 1.2 does not."""
ALLOWED = "a .yaml, .yml or .toml file that maps option names to values"


def read_options_file(path: Path, known: Collection[str]) -> dict[str, object]:
    """Read options; names may have dashes, like the flags, or underscores.

    Args:
        path: A ``.yaml``, ``.yml`` or ``.toml`` file.
        known: Every option's name, with underscores.

    Returns:
        Option name with underscores -> value as in the file.

    Raises:
        OptionsError: The file cannot be read or parsed, or holds an unknown name, a group of options, or the same name
            twice.
    """
    options: dict[str, object] = {}
    unknown = []
    for key, value in parse_options_file(path).items():
        name = str(key).replace("-", "_")
        if name not in known:
            unknown.append(_group(str(key)) if isinstance(value, dict) else unknown_option(str(key), known))
        if name in options:
            raise OptionsError(f"options file {str(path)!r} gives {name} twice; allowed: each option once")
        options[name] = value
    if unknown:
        raise OptionsError(f"options file {str(path)!r}: {'; '.join(unknown)}")
    return options


def write_options_file(path: Path, options: Mapping[str, object]) -> Path:
    """Write options as YAML, one a line, for ``read_options_file``.

    Args:
        path: A ``.yaml`` file; written atomically.
        options: Option name -> a plain value: text, a number, a bool, None, or a list of these.

    Raises:
        OSError: The file cannot be written.
    """
    text = "".join(f"{name}: {_yaml_value(value)}\n" for name, value in options.items())
    return write_atomically(path, f"# Repeats the run: python run_pipeline.py --options FILE\n{text}")


def unknown_option(name: str, known: Collection[str]) -> str:
    """Return the message for an option that does not exist, with the nearest existing name."""
    nearest = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"allowed: {', '.join(known)}"
    return f"unknown option {name!r}; {hint}"


def parse_options_file(path: Path) -> dict[Any, object]:
    """Parse a file into names and values, without checking that they are options.

    Raises:
        OptionsError: The file cannot be read or parsed, or contains a name twice.
    """
    import yaml

    if path.suffix.lower() not in (".yaml", ".yml", ".toml"):
        raise OptionsError(f"options file {str(path)!r} has the suffix {path.suffix!r}; allowed: {ALLOWED}")
    try:
        text = _decoded(path.read_bytes())
        content = tomllib.loads(text) if path.suffix.lower() == ".toml" else _load_yaml(text)
    except OSError as error:
        raise OptionsError(f"options file {str(path)!r} cannot be read: {error.strerror}; allowed: {ALLOWED}") from None
    except UnicodeDecodeError as error:
        raise OptionsError(
            f"options file {str(path)!r} cannot be parsed ({error.reason} at byte {error.start}); allowed: {ALLOWED}, "
            "in UTF-8, or in UTF-16 or UTF-32 with a byte order mark"
        ) from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise OptionsError(f"options file {str(path)!r} cannot be parsed ({why}); allowed: {ALLOWED}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise OptionsError(f"options file {str(path)!r} holds a {type(content).__name__}; allowed: {ALLOWED}")
    return dict(content)


def _decoded(content: bytes) -> str:
    """Decode UTF-8, or the encoding of a byte order mark, which editors on Windows write; line ends become one LF."""
    marked = next((name for marks, name in _MARKS if content.startswith(marks)), "utf-8-sig")
    return content.decode(marked).replace("\r\n", "\n").replace("\r", "\n")


def _yaml_value(value: object) -> str:
    """Return a value as YAML in one line; it is dumped in a list, because a bare scalar would end with ``...``."""
    import yaml

    return str(yaml.safe_dump([value], default_flow_style=True, width=float("inf"))).strip()[1:-1]


def _load_yaml(text: str) -> object:
    """Parse YAML's plain values, octal numbers, numbers in base 60 and dates as text.

    Raises:
        ValueError: A name is given twice, of which YAML would silently keep the last.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            # A merge key, `<<`, may repeat names.
            keys = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
            names = [self.construct_object(key, deep=True) for key in keys]
            if twice := [str(name) for place, name in enumerate(names) if name in names[:place]]:
                raise ValueError(f"{twice[0]} is given twice")
            return super().construct_mapping(node, deep)

        def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
            tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
            return _TEXT_TAG if tag in _NUMBER_TAGS and _RECODED.search(value) else tag

    content: object = yaml.load(text, Loader)  # a SafeLoader
    return content


def _group(name: str) -> str:
    return f"{name!r} is a group of options; allowed: every option at the top level, under its own name"
