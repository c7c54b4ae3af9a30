"""Parse single option values, which are text (command line), YAML or TOML values, or Python values."""

import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterable
from typing import TypeVar

from basis.families import BASES
from basis.parametric.families import FAMILIES
from pipeline.errors import OptionsError
from pipeline.options.orders import parse_config
from pipeline.options.registry import EXECUTORS, TRACKERS, Plugin
from quant.registry import BACKENDS, MAX_BITS, MIN_BITS, SCHEMES

CHOICES = {
    "basis": (*BASES, *FAMILIES),
    "fit": ("activations", "weights"),
    "rounding": ("gptq", "nearest"),
    "backend": tuple(BACKENDS),
    "scheme": tuple(SCHEMES),
    "precision": ("auto", "bf16", "fp32"),
    "log_format": ("text", "json"),
    "track": tuple(TRACKERS),
    "executor": tuple(EXECUTORS),
}
"""Option -> its allowed values, the default first."""
BITS = range(MIN_BITS, MAX_BITS + 1)
BUILTIN = "builtin"
"""Value of ``--weights`` for the weights that the network's builder returns."""
_T = TypeVar("_T")
_LONGEST = 200
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")


def parse_configs(value: object) -> tuple[str, ...]:
    """Parse one config or several into their canonical texts.

    Raises:
        OptionsError: A config is not text, cannot be parsed, or is given twice.
    """
    entries = value if isinstance(value, list | tuple) else [value]
    if not entries or not all(isinstance(entry, str | int) and not isinstance(entry, bool) for entry in entries):
        raise OptionsError(f"--config: got {shown(value)}; allowed: one config or a list of them, each text")
    if len(entries) > 1 and any(isinstance(entry, int) for entry in entries):
        raise OptionsError(
            f"--config: got {shown(value)}; allowed: text, with one config's orders in quotes: '6,3,3,2,2'"
        )
    return _without_repeats("--config", [parse_config(str(entry)).text for entry in entries])


def parse_bits(value: object, flag: str = "--bits") -> tuple[int, ...]:
    """Parse the widths of the coefficients, a comma list or a list of whole numbers.

    Args:
        value: The option's value.
        flag: Its flag, for error messages.

    Returns:
        Widths in bits.

    Raises:
        OptionsError: A width is not a whole number in ``BITS``, or is given twice.
    """
    tokens = items(value)
    if not tokens or not all(re.fullmatch(r"[0-9]{1,3}", token) and int(token) in BITS for token in tokens):
        raise OptionsError(
            f"{flag}: got {shown(value)}; allowed: {BITS[0]} to {BITS[-1]}, several with commas as in 8,4"
        )
    return _without_repeats(flag, [int(token) for token in tokens])


def parse_dense_bits(value: object) -> tuple[int, ...]:
    """Parse the widths of the dense rows; an empty list means none.

    Raises:
        OptionsError: As ``parse_bits``.
    """
    return () if value in ((), []) else parse_bits(value, "--dense-bits")


def parse_output(value: object) -> object:
    """Return the number or name of an output as text; other values are left to the type's check."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else parse_text(value)


def parse_sizes(value: object) -> tuple[float, ...]:
    """Parse the target sizes in MB (10^6 bytes), a comma list or a list of numbers; an empty list means none.

    Raises:
        OptionsError: A size is not a number, is less than one byte, or is given twice.
    """
    if value in ((), []):
        return ()
    sizes = [_megabytes(token) for token in items(value)]
    if None in sizes:
        raise OptionsError(
            f"--target-mb: got {shown(value)}; allowed: MB (10^6 bytes) from 0.000001 on, several with commas as in "
            "0.06,0.04"
        )
    return _without_repeats("--target-mb", [size for size in sizes if size is not None])


def _megabytes(token: str) -> float | None:
    """Return a size rounded to whole bytes; None if it is not finite or less than one byte."""
    try:
        size = float(token)
    except ValueError:
        return None
    return round(size * 1e6) / 1e6 if math.isfinite(size) and round(size * 1e6) >= 1 else None


def parse_bases(value: object) -> tuple[str, ...]:
    """Parse basis names, a comma list or a list.

    Raises:
        OptionsError: A name is unknown or given twice.
    """
    tokens = items(value)
    if not tokens or not set(tokens) <= set(CHOICES["basis"]):
        raise OptionsError(f"--basis: got {shown(value)}; allowed: {', '.join(CHOICES['basis'])}, several with commas")
    return _without_repeats("--basis", tokens)


def parse_trackers(value: object) -> tuple[str, ...]:
    """Parse trackers, a comma list or a list; ``none`` and an empty list mean none.

    Raises:
        OptionsError: A tracker is unknown, given twice, or not installed.
    """
    tokens = items(value)
    if tokens in ([], ["none"]):
        return ()
    if not set(tokens) <= set(CHOICES["track"]):
        allowed = f"{', '.join(CHOICES['track'])}, both with a comma, or none"
        raise OptionsError(f"--track: got {shown(value)}; allowed: {allowed}")
    for name in tokens:
        require_installed("--track", name, TRACKERS[name])
    return _without_repeats("--track", tokens)


def require_installed(flag: str, name: str, plugin: Plugin) -> None:
    """Check that the library of a choice can be imported, without importing it.

    Args:
        flag: The option's flag, for the error message.
        name: The choice.
        plugin: Its code.

    Raises:
        OptionsError: The library is missing. A folder of its name is not the library.
    """
    if plugin.library is None:
        return
    found = importlib.util.find_spec(plugin.library)
    if found is None or found.origin is None:
        raise OptionsError(
            f"{flag}: got {name!r}, but {plugin.library} is not installed; allowed: {name} after pip install "
            f"'seriesquant[{plugin.library}]'"
        )


def parse_tracking_uri(value: object) -> str:
    """Return a tracking URI unchanged; the report and the options file show it.

    Raises:
        OptionsError: It holds a user or a password.
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
    """Return the name of a device; this does not check that the machine has the device.

    Args:
        value: The name, or a ``torch.device``.

    Raises:
        ValueError: It is none of auto, cpu, cuda, cuda:N, mps.
    """
    torch = sys.modules.get("torch")
    name = str(value) if torch is not None and isinstance(value, torch.device) else value
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise ValueError("not a device")
    return name


def refuse_network(value: object) -> None:
    """Refuse a network, or a class of networks, in place of its name.

    Raises:
        OptionsError: The value is a network or a class of networks.
    """
    torch = sys.modules.get("torch")  # without torch there is no network, and importing it takes a second
    kind = value if isinstance(value, type) else type(value)
    if torch is not None and issubclass(kind, torch.nn.Module):
        what = "the class" if kind is value else "a network of the class"
        raise OptionsError(
            f"--model: got {what} {kind.__name__}; allowed: a name, module:callable such as '{kind.__module__}:"
            f"{kind.__qualname__}', or pipeline.compress(network, images, ...) for a network in memory"
        )


def parse_precision(value: object) -> object:
    """Return a precision under its short name; another value is returned unchanged."""
    return {"bfloat16": "bf16", "float32": "fp32"}.get(value, value) if isinstance(value, str) else value


def parse_text(value: object) -> str:
    """Return text or a path as text.

    Raises:
        ValueError: It is of another type, blank, or holds a NUL.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError("not text")
    return text


def not_bool(value: object) -> object:
    """Return a number unchanged; true and false are refused, which Python would accept as 1 and 0.

    Raises:
        ValueError: It is a bool.
    """
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def items(value: object) -> list[str]:
    """Split a comma list, or return the texts of a list's entries."""
    if isinstance(value, str):
        return [token.strip() for token in value.split(",")]
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]


def shown(value: object) -> str:
    """Return a value in one line, as error messages show it; of a long one the beginning."""
    text = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def plain(value: object) -> object:
    """Return a number or a list of numbers of NumPy or torch as Python's; another value unchanged."""
    return value.tolist() if hasattr(value, "tolist") and getattr(value, "ndim", 2) < 2 else value


def require_utf8(flag: str, value: object) -> object:
    """Return a name of a file or a network unchanged if it is valid text: reports and artifacts hold it.

    Raises:
        OptionsError: It has bytes that the locale's encoding cannot decode.
    """
    try:
        str(value).encode("utf-8")
    except UnicodeEncodeError:
        readable = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
        raise OptionsError(
            f"{flag}: got '{readable}' with bytes that are no text in this locale; allowed: names in UTF-8, and a "
            "locale with UTF-8, such as LC_ALL=C.UTF-8"
        ) from None
    return value


def _without_repeats(flag: str, values: Iterable[_T]) -> tuple[_T, ...]:
    seen = tuple(values)
    if twice := [value for value in dict.fromkeys(seen) if seen.count(value) > 1]:
        raise OptionsError(f"{flag}: {twice[0]} is given twice; allowed: each once")
    return seen


def flag_name(option: str) -> str:
    """Return the flag of an option: ``qat_epochs`` -> ``--qat-epochs``."""
    return "--" + option.replace("_", "-")
