"""Parse ``--config``: the number of terms of each stage, or of each run of blocks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import OptionsError
from reports.text import quantity

ALLOWED = "orders such as '6,3,3,2,2', blocks such as '7x3,7x3,7x9,6x3', or 'dense'"
DENSE, AUTO, ALL = "dense", "auto", "all"
DEFAULT_MODELS = {5: "resnet18", 4: "resnet20"}
DEFAULT_BLOCKS_MODEL = "convnext_tiny"
_MAX_DIGITS = 6
_BLOCK_LIKE = re.compile(r"[0-9]\s*x|x\s*[0-9]")


@dataclass(frozen=True)
class Config:
    """One parsed config.

    Attributes:
        text: Canonical form, such as ``6,3,3,2,2``, ``7x3,6x3`` or ``dense``; it parses to an equal config.
        kind: ``dense``: nothing is compressed. ``stages``: one order per stage. ``blocks``: order x blocks. ``auto``:
            the full order of every kernel, only for rows of a target. ``all``: every spatial convolution, only for
            parametric families, which have no orders.
        orders: Terms kept per axis, one per token; empty for ``dense``, ``auto`` and ``all``.
        repeats: Blocks that each order covers, one per token; empty but for ``blocks``.
    """

    text: str
    kind: Literal["dense", "auto", "all", "stages", "blocks"]
    orders: tuple[int, ...] = ()
    repeats: tuple[int, ...] = ()


def parse_config(text: str) -> Config:
    """Parse a config; spaces around tokens, upper case and the multiplication sign are allowed.

    Args:
        text: Such as ``6,3,3,2,2``, ``7x3, 7x3, 7x9, 6x3``, ``dense``, ``auto`` or ``all``.

    Returns:
        The config with its canonical text.

    Raises:
        OptionsError: An empty config or token, something that is not a whole number of 1 or more, or mixed tokens.

    Example:
        >>> parse_config("7 X 3, 6x3")
        Config(text='7x3,6x3', kind='blocks', orders=(7, 6), repeats=(3, 3))
    """
    tokens = [token.strip() for token in text.lower().replace("\u00d7", "x").split(",")]
    if tokens == [""]:
        raise OptionsError(f"config is empty; allowed: {ALLOWED}")
    if tokens == [DENSE]:
        return Config(DENSE, "dense")
    if tokens == [AUTO]:
        return Config(AUTO, "auto")
    if tokens == [ALL]:
        return Config(ALL, "all")
    if "" in tokens:
        place = tokens.index("") + 1
        raise OptionsError(f"config {text!r} has an empty token at place {place} of {len(tokens)}; allowed: {ALLOWED}")
    for word in (DENSE, AUTO, ALL):
        if word in tokens:
            raise OptionsError(
                f"config {text!r} mixes {word!r} with other tokens; allowed: {word!r} as a config of its own"
            )
    if not any(_BLOCK_LIKE.search(token) for token in tokens):
        orders = tuple(_count(token, "order", text) for token in tokens)
        return Config(",".join(map(str, orders)), "stages", orders)
    blocks = [_block(token, text) for token in tokens]
    canonical = ",".join(f"{order}x{repeat}" for order, repeat in blocks)
    return Config(canonical, "blocks", tuple(order for order, _ in blocks), tuple(repeat for _, repeat in blocks))


def default_model(configs: Sequence[Config]) -> str:
    """Return the default network of configs, for runs without ``--model``.

    Args:
        configs: The parsed configs of one run.

    Returns:
        ``resnet18`` for 5 orders, ``resnet20`` for 4, ``convnext_tiny`` for blocks.

    Raises:
        OptionsError: No config has orders, a number of orders has no default, or the configs have different ones.
    """
    models = {config.text: _model_of(config) for config in configs if config.orders}
    if not models:
        words = " and ".join(repr(config.text) for config in configs)
        raise OptionsError(f"config {words} fits every network; pass --model, for example --model resnet18")
    if len(set(models.values())) > 1:
        meant = ", ".join(f"{text!r} means {model}" for text, model in models.items())
        raise OptionsError(f"the configs are written for different networks ({meant}); pass --model, or run them apart")
    return next(iter(models.values()))


def _model_of(config: Config) -> str:
    if config.kind == "blocks":
        return DEFAULT_BLOCKS_MODEL
    count = len(config.orders)
    if count not in DEFAULT_MODELS:
        known = ", ".join(f"{orders} orders mean {model}" for orders, model in DEFAULT_MODELS.items())
        raise OptionsError(
            f"config {config.text!r} has {quantity(count, 'order')}, which names no network; pass --model ({known})"
        )
    return DEFAULT_MODELS[count]


def _block(token: str, text: str) -> tuple[int, int]:
    order, sign, repeat = (part.strip() for part in token.partition("x"))
    if not sign:
        raise OptionsError(f"config {text!r} mixes the order {token!r} with NxM blocks; allowed: {ALLOWED}")
    return _count(order, "order", text, token), _count(repeat, "number of blocks", text, token)


def _count(digits: str, what: str, text: str, token: str | None = None) -> int:
    token = digits if token is None else token
    if not re.fullmatch(r"-?[0-9]+", digits):
        raise OptionsError(f"config {text!r} has {token!r}, whose {what} is not a whole number; allowed: {ALLOWED}")
    if digits.startswith("-") or not digits.strip("0"):
        raise OptionsError(f"config {text!r} has {token!r}, whose {what} is {digits}; allowed: 1 or more")
    if len(digits.lstrip("0")) > _MAX_DIGITS:
        raise OptionsError(f"config {text!r} has {token!r}, whose {what} is too large; allowed: {_MAX_DIGITS} digits")
    return int(digits)
