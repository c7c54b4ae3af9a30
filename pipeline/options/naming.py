"""Name a run's output folder, and write options as the words of a command line."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipeline.errors import OptionsError
from pipeline.options.orders import ALL, AUTO, default_model, parse_config
from pipeline.options.values import flag_name

_LONGEST: Final = 100
"""Most bytes of a name or of a part of it, well below the 255 of a file system and the 250 of MLflow."""


def shortened(name: str) -> str:
    """Return a name of at most ``_LONGEST`` bytes: a longer one is cut, and ends in a dash and 8 digits of its SHA-256.

    Example:
        >>> shortened("3,3,2,2"), shortened(",".join(["3"] * 99))[-12:]
        ('3,3,2,2', '3,3-0ed73f20')
    """
    content = name.encode()
    if len(content) <= _LONGEST:
        return name
    digest = hashlib.sha256(content).hexdigest()[:8]
    return f"{content[: _LONGEST - 9].decode(errors='ignore')}-{digest}"


def default_out(values: Mapping[str, Any]) -> Path:
    """Return the default output folder: ``runs/<model>-<data>-<configs>``; ``runs`` if one of the three is unknown.

    Args:
        values: Option name -> checked value.
    """
    if not {"config", "model", "data"} <= set(values):
        return Path("runs")
    stem = Path(values["data"]).stem or "data"
    name = re.sub(r"[^\w.,-]+", "-", f"{values['model']}-{stem}-{'_'.join(values['config'])}")
    return Path("runs") / shortened(name)


def flag_words(name: str, value: object) -> list[str]:
    """Return the flag and its value: ``("bits", (8, 4))`` -> ``["--bits", "8,4"]``."""
    if isinstance(value, bool):
        return [flag_name(name) if value else f"--no-{name}"]
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [flag_name(name), text]


def command_words(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return the words that repeat options: the configs, and every option that is not the default.

    Args:
        values: Option name -> checked value, in the order of the words.
        defaults: Option name -> default. The model and the output folder have defaults that depend on other options.
    """
    words: list[str] = []
    for name, value in values.items():
        if name == "config":
            words += [] if value in ((AUTO,), (ALL,)) else [word for text in value for word in ("--config", text)]
        elif name == "model":
            words += [] if value == _default_model(values["config"]) else ["--model", value]
        elif value != (default_out(values) if name == "out" else defaults[name]):
            words += flag_words(name, value)
    return words


def _default_model(configs: Sequence[str]) -> str | None:
    try:
        return default_model([parse_config(text) for text in configs])
    except OptionsError:  # these configs have no default, so that the command must name the model
        return None
