"""Build networks of timm, an optional library; no other module does."""

import difflib
from typing import Any, Final, cast

from torch import nn

from pipeline.errors import OptionsError, described

PREFIX: Final = "timm:"


def build(name: str, classes: int) -> nn.Module:
    """Build ``timm:NAME`` with random weights and ``classes`` outputs.

    Raises:
        OptionsError: timm is not installed, has no such network, or cannot build it.
    """
    timm, short = _library(), name.removeprefix(PREFIX)
    if not timm.is_model(short):
        near = difflib.get_close_matches(short, timm.list_models(), n=3)
        raise OptionsError(
            f"--model: timm has no network {short!r}; allowed: a name of timm.list_models()"
            + (f", such as {' or '.join(near)}" if near else "")
        )
    try:
        return cast(nn.Module, timm.create_model(short, pretrained=False, num_classes=classes))
    except Exception as error:  # networks of timm raise anything
        raise OptionsError(
            f"--model: timm could not build {short!r} with {classes} classes ({described(error)}); allowed: a "
            "classification network"
        ) from error


def _library() -> Any:
    try:
        import timm  # only now: it takes seconds
    except ImportError as error:
        raise OptionsError(
            f"--model: {PREFIX}NAME needs the library timm, which cannot be imported ({error}); allowed: pip install "
            "'seriesquant[timm]', or another model"
        ) from error
    return timm
