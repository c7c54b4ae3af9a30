"""Reading of single option values, which arrive as text (command line), as YAML or TOML values, or from Python."""

import importlib.util
import os
import re
from collections.abc import Iterable
from typing import TypeVar

from pipeline.errors import OptionsError
from pipeline.options.orders import parse_config

# A new choice is one entry here, beside the code that does it.
CHOICES = {
    "basis": ("cosine", "chebyshev"),
    "fit": ("activations", "weights"),
    "rounding": ("gptq", "nearest"),
    "backend": ("brevitas", "torch.ao"),
    "scheme": ("int", "minifloat"),
    "log_format": ("text", "json"),
    "track": ("mlflow", "tensorboard"),
    "executor": ("local", "ray"),
}
BITS = range(2, 9)
_T = TypeVar("_T")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")


def parse_configs(value: object) -> tuple[str, ...]:
    """Read one config or several into their canonical texts.

    Raises:
        OptionsError: A config is not text, cannot be parsed, or is given twice.
    """
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries or not all(isinstance(entry, str | int) and not isinstance(entry, bool) for entry in entries):
        raise OptionsError(f"--config: got {value!r}; allowed: one config or a list of them, each text")
    if len(entries) > 1 and any(isinstance(entry, int) for entry in entries):
        raise OptionsError(f"--config: got {value!r}; allowed: text, with one config's orders in quotes: '6,3,3,2,2'")
    return _without_repeats("--config", [parse_config(str(entry)).text for entry in entries])


def parse_bits(value: object, flag: str = "--bits") -> tuple[int, ...]:
    """Read a comma list, or a list of whole numbers, of coefficient widths in bits; ``flag`` names it in errors.

    Raises:
        OptionsError: A width is not a whole number from 2 to 8, or is given twice.
    """
    tokens = _items(value)
    if not tokens or not all(re.fullmatch(r"[0-9]{1,3}", token) and int(token) in BITS for token in tokens):
        raise OptionsError(
            f"{flag}: got {_shown(value)}; allowed: {BITS[0]} to {BITS[-1]}, several with commas as in 8,4"
        )
    return _without_repeats(flag, [int(token) for token in tokens])


def parse_dense_bits(value: object) -> tuple[int, ...]:
    """Read the widths of the dense rows; an empty list means none.

    Raises:
        OptionsError: As ``parse_bits``.
    """
    return () if value in ((), []) else parse_bits(value, "--dense-bits")


def parse_bases(value: object) -> tuple[str, ...]:
    """Read a comma list, or a list, of basis names.

    Raises:
        OptionsError: A name is unknown or given twice.
    """
    tokens = _items(value)
    if not tokens or not set(tokens) <= set(CHOICES["basis"]):
        raise OptionsError(f"--basis: got {_shown(value)}; allowed: {', '.join(CHOICES['basis'])}, several with commas")
    return _without_repeats("--basis", tokens)


def parse_trackers(value: object) -> tuple[str, ...]:
    """Read a comma list, or a list, of trackers; ``none`` and an empty list mean none.

    Raises:
        OptionsError: A tracker is unknown, given twice, or not installed.
    """
    tokens = _items(value)
    if tokens in ([], ["none"]):
        return ()
    if not set(tokens) <= set(CHOICES["track"]):
        allowed = f"{', '.join(CHOICES['track'])}, both with a comma, or none"
        raise OptionsError(f"--track: got {_shown(value)}; allowed: {allowed}")
    for name in tokens:
        if not _installed(name):
            raise OptionsError(
                f"--track: got {_shown(value)}, but {name} is not installed; allowed: {name} after pip install "
                f"'seriesquant[{name}]'"
            )
    return _without_repeats("--track", tokens)


def _installed(library: str) -> bool:
    """Whether a library can be imported, found out without doing so; a mere folder of its name cannot."""
    found = importlib.util.find_spec(library)
    return found is not None and found.origin is not None


def parse_tracking_uri(value: object) -> str:
    """Take a tracking URI, which the report and the options file will show.

    Raises:
        OptionsError: It holds a password.
        ValueError: It is not text.
    """
    text = parse_text(value)
    if re.search(r"//[^/\s]*@", text):
        raise OptionsError(
            "--tracking-uri: got a URI with a user or a password, which the report would show; allowed: one without "
            "them, or the environment's MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return text


def parse_device(value: object) -> str:
    """Check the form of a device name; whether the machine has it is found out when it is used.

    Raises:
        ValueError: It is none of auto, cpu, cuda, cuda:N, mps.
    """
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise ValueError("not a device")
    return value


def parse_text(value: object) -> str:
    """Take text or a path, not blank.

    Raises:
        ValueError: It is something else.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError("not text")
    return text


def not_bool(value: object) -> object:
    """Refuse true and false where a number is meant, which Python would take for 1 and 0.

    Raises:
        ValueError: It is a bool.
    """
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def _items(value: object) -> list[str]:
    if isinstance(value, str):
        return [token.strip() for token in value.split(",")]
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _without_repeats(flag: str, values: Iterable[_T]) -> tuple[_T, ...]:
    seen = tuple(values)
    if twice := [value for value in dict.fromkeys(seen) if seen.count(value) > 1]:
        raise OptionsError(f"{flag}: {twice[0]} is given twice; allowed: each once")
    return seen


def flag_name(option: str) -> str:
    """The flag of an option: ``qat_epochs`` -> ``--qat-epochs``."""
    return "--" + option.replace("_", "-")
