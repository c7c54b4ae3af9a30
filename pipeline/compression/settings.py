"""Validate the arguments of a compression in memory, with the options of a run."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias, TypeVar, cast

import torch
from torch import nn

from basis.computed import ComputedConv2d
from basis.errors import CompressionError
from basis.parametric.families import is_parametric
from pipeline.errors import OptionsError
from pipeline.models.layer_orders import stages_of
from pipeline.options.grid import Variant, variants
from pipeline.options.options import Options
from pipeline.options.orders import AUTO, DENSE
from pipeline.options.values import plain, shown

_N = TypeVar("_N", int, float)
Config: TypeAlias = str | int | Sequence[int]
"""Orders as on the command line; one order for all stages; or one order for each stage."""


@dataclass(frozen=True)
class Settings:
    """The validated arguments of one compression.

    Attributes:
        options: They hold the settings of fit, rounding and training.
        variant: Config, basis, width or target, epochs.
        bits: The width; None for a target, and for float coefficients.
        device: The device that computes.
    """

    options: Options
    variant: Variant
    bits: int | None
    device: torch.device


def settings_of(
    network: nn.Module,
    *,
    config: Config | None,
    bits: int | None,
    target_mb: float | None,
    basis: str | None,
    device: torch.device,
    **values: Any,
) -> Settings:
    """Validate the arguments.

    Args:
        network: A copy of the caller's network.
        config: See ``Config``; None for the default.
        bits: Width of the coefficients; None for a target, or for no rounding.
        target_mb: Size of the file in MB (10^6 bytes); None for a width, or for no rounding.
        basis: Basis of the series; None for that of a network with series, or for ``cosine``.
        device: The device that computes.
        values: Other options of a run, by name.

    Raises:
        OptionsError: An argument is wrong; the message lists every mistake.
    """
    if bits is not None and target_mb is not None:
        raise OptionsError(f"bits: got {bits} with target_mb={target_mb}; allowed: one of the two")
    bits, target_mb = _number("bits", bits, Integral, int), _number("target_mb", target_mb, Real, float)
    text = _config_text(network, config, target=target_mb is not None)
    if text == DENSE and bits is None and not _has_series(network):
        raise OptionsError("config: got 'dense' without bits, which compresses nothing; allowed: bits=4, or orders")
    if target_mb is not None and _has_series(network):
        raise OptionsError("target_mb: got a network that already has series; allowed: the original network, or bits")
    if values.get("epochs", 0) is None:  # Options would take it as the 5 epochs of a run
        raise OptionsError("epochs: got None; allowed: a whole number, 0 or more")
    found = sorted({module.basis for module in network.modules() if isinstance(module, ComputedConv2d)})
    if basis is not None and found not in ([], [basis]):
        raise OptionsError(f"basis: got {basis} for a network with series of {', '.join(found)}; allowed: no basis")
    if basis is not None and not found:
        values["basis"] = basis
    rounding = {"bits": bits} if target_mb is None else {"target_mb": target_mb}
    options = Options(config=text, model="network", **rounding, **values)
    if len(options.basis) > 1:
        raise OptionsError(f"basis: got {', '.join(options.basis)}; allowed: one basis")
    if text == DENSE and is_parametric(options.basis[0]):
        raise OptionsError(f"config: got 'dense' with basis {options.basis[0]}; allowed: no config, or another basis")
    return Settings(options, variants(options)[0], bits, device)


def _number(name: str, value: Any, kind: type, result: Callable[[Any], _N]) -> _N | None:
    """Return a number of Python, NumPy or torch as one of Python; None stays None."""
    value = plain(value)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, kind):
        raise OptionsError(f"{name}: got {shown(value)}; allowed: one number, or None")
    return result(value)


def device_from(device: object, default: torch.device) -> torch.device:
    """Return a device that this machine has; None selects the default.

    Raises:
        OptionsError: It is no device, or this machine lacks it.
    """
    if device is None:
        return default
    try:
        found = torch.empty(0, device=device).device  # type: ignore[call-overload]
    except Exception as error:  # a build without CUDA raises an AssertionError
        reason = " ".join(str(error).split())[:100]
        raise OptionsError(
            f"device: got {device!r} ({reason}); allowed: a device of this machine, such as cpu"
        ) from error
    return torch.device(found)


@contextmanager
def naming_arguments() -> Generator[None]:
    """Write the command line's flags as arguments in errors: ``--target-mb`` becomes ``target_mb``."""
    try:
        yield
    except CompressionError as error:
        words = re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda flag: flag[1].replace("-", "_"), str(error))
        raise type(error)(f"compress: {words}") from error


def _config_text(network: nn.Module, config: Config | None, *, target: bool) -> str | None:
    """Return the config as on the command line; None if it is missing."""
    config = cast(Config | None, plain(config))
    if config is None:
        return AUTO if target else DENSE if _has_series(network) else None
    if isinstance(config, str):
        if config.strip().lower() == AUTO and not target:
            raise OptionsError(
                "config: got 'auto' without target_mb; allowed: orders such as '6,3,3,2,2', or a target_mb"
            )
        return config
    if _is_whole(config):
        kernels = [max(max(conv.kernel_size) for conv in convs.values()) for convs in stages_of(network).values()]
        return ",".join(str(min(int(cast(int, config)), kernel)) for kernel in kernels) or str(config)
    orders = list(config) if isinstance(config, Sequence) else [config]
    if not orders or not all(map(_is_whole, orders)):
        raise OptionsError(
            f"config: got {shown(config)}; allowed: text such as '6,3,3,2,2', an order, or a list of orders"
        )
    return ",".join(map(str, orders))


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _has_series(network: nn.Module) -> bool:
    return any(isinstance(module, ComputedConv2d) for module in network.modules())
