"""Options kept in a YAML or TOML file, under the names of the flags."""

import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pipeline.errors import OptionsError

ALLOWED = "a .yaml, .yml or .toml file that maps option names to values"


def read_options_file(path: Path, known: Collection[str]) -> dict[str, object]:
    """Read options; names may be written with dashes, as the flags are, or with underscores.

    Args:
        path: A ``.yaml``, ``.yml`` or ``.toml`` file.
        known: Every option's name, with underscores.

    Returns:
        Option name with underscores -> value as the file has it.

    Raises:
        OptionsError: The file cannot be read or parsed, or holds an unknown name or the same name twice.
    """
    options: dict[str, object] = {}
    unknown = []
    for key, value in _parse(path).items():
        name = str(key).replace("-", "_")
        if name not in known:
            unknown.append(unknown_option(str(key), known))
        if name in options:
            raise OptionsError(f"options file {str(path)!r} gives {name} twice; allowed: each option once")
        options[name] = value
    if unknown:
        raise OptionsError(f"options file {str(path)!r}: {'; '.join(unknown)}")
    return options


def unknown_option(name: str, known: Collection[str]) -> str:
    """Say that an option does not exist, and which existing name is nearest."""
    nearest = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"allowed: {', '.join(known)}"
    return f"unknown option {name!r}; {hint}"


def _parse(path: Path) -> dict[Any, object]:
    import yaml

    if path.suffix.lower() not in (".yaml", ".yml", ".toml"):
        raise OptionsError(f"options file {str(path)!r} has the suffix {path.suffix!r}; allowed: {ALLOWED}")
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix.lower() == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise OptionsError(f"options file {str(path)!r} cannot be read: {error.strerror}; allowed: {ALLOWED}") from None
    except (ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise OptionsError(f"options file {str(path)!r} cannot be parsed ({why}); allowed: {ALLOWED}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise OptionsError(f"options file {str(path)!r} holds a {type(content).__name__}; allowed: {ALLOWED}")
    return dict(content)
