"""Types of option values, which parse what a user gives, and fields with the data of their flags."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from pipeline.options.images import parse_image_size, parse_mean, parse_std
from pipeline.options.paths import parse_folder, parse_path
from pipeline.options.values import (
    CHOICES,
    not_bool,
    parse_bases,
    parse_bits,
    parse_configs,
    parse_dense_bits,
    parse_device,
    parse_output,
    parse_precision,
    parse_sizes,
    parse_text,
    parse_trackers,
    parse_tracking_uri,
)

Panel = Literal["Compression", "Model and data", "Training", "Run"]
Text = Annotated[str, BeforeValidator(parse_text)]
PathText = Annotated[str, BeforeValidator(parse_path)]
Folder = Annotated[Path, BeforeValidator(parse_folder)]
Device = Annotated[str, BeforeValidator(parse_device)]
Integer = Annotated[int, BeforeValidator(not_bool)]
Number = Annotated[float, BeforeValidator(not_bool)]
Bits = Annotated[tuple[int, ...], BeforeValidator(parse_bits)]
DenseBits = Annotated[tuple[int, ...], BeforeValidator(parse_dense_bits)]
Sizes = Annotated[tuple[float, ...], BeforeValidator(parse_sizes)]
Bases = Annotated[tuple[str, ...], BeforeValidator(parse_bases)]
Tracked = Annotated[tuple[str, ...], BeforeValidator(parse_trackers)]
Precision = Annotated[str, BeforeValidator(parse_precision)]
TrackingUri = Annotated[str, BeforeValidator(parse_tracking_uri)]
Output = Annotated[str, BeforeValidator(parse_output)]
Mean = Annotated[tuple[float, ...], BeforeValidator(parse_mean)]
Std = Annotated[tuple[float, ...], BeforeValidator(parse_std)]
ImageSize = Annotated[tuple[int, int], BeforeValidator(parse_image_size)]
Configs = Annotated[tuple[str, ...], BeforeValidator(parse_configs)]


def option(default: object, panel: Panel, help_text: str, allowed: str, **limits: Any) -> Any:
    """Return a field with the data of its flag.

    Args:
        default: The option's default.
        panel: Panel of ``--help``.
        help_text: Text of ``--help``.
        allowed: Allowed values, for errors.
        limits: Limits that pydantic checks.
    """
    extra = {"panel": panel, "allowed": allowed}
    return Field(default, description=help_text, json_schema_extra=cast(Any, extra), **limits)


def choice(name: str, panel: Panel, help_text: str) -> Any:
    """Return the field of an option with the values of ``CHOICES``, of which the first is the default."""
    allowed = ", ".join(CHOICES[name])
    return option(CHOICES[name][0], panel, f"{help_text}: {allowed}", allowed, pattern=_one_of(CHOICES[name]))


def _one_of(names: tuple[str, ...]) -> str:
    return f"^({'|'.join(map(re.escape, names))})$"
