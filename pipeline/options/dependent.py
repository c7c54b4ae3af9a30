"""Options that depend on others: on a target, and on the kind of the bases.

Parametric families have no orders, no terms, and no fit to the outputs, which is linear.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from basis.families import BASES
from basis.parametric.families import is_parametric
from pipeline.errors import OptionsError
from pipeline.options.naming import flag_words
from pipeline.options.orders import ALL, ALLOWED, AUTO, DENSE
from pipeline.options.values import flag_name, items

FIT: Final = "weights"
ROUNDING: Final = "nearest"
"""Rounding of a parametric family, whatever the option is; ``FIT`` likewise."""
_NOT_WITH_TARGET: Final = ("bits", "fit", "rounding", "scheme", "backend", "qat_epochs")
_NONE: Final[tuple[object, ...]] = (None, (), [])


def only_parametric(bases: Sequence[str]) -> bool:
    """Return True if there is a basis, and every basis is a parametric family."""
    return bool(bases) and all(map(is_parametric, bases))


def with_dependent_defaults(given: Mapping[str, object]) -> dict[str, object]:
    """Add the defaults that depend on other options: of the config, the fit and the rounding.

    Args:
        given: Option name -> value as the user gives it, without None.
    """
    if any(given.get(name) not in _NONE for name in ("target_mb", "target_drop")):
        return {"config": AUTO, **given}
    if not only_parametric(items(given.get("basis", ""))):
        return dict(given)
    found = {"config": ALL, "fit": FIT, **given}
    return found if _has_dense_rows(found) else {"rounding": ROUNDING, **found}


def check_with_target(name: str, value: object, usual: object, data: Mapping[str, Any]) -> None:
    """Check an option against the targets.

    Args:
        name: The option.
        value: Its checked value.
        usual: Its default.
        data: Checked options before it.

    Raises:
        OptionsError: The rows of the target would not use the value.
    """
    target = _target(data)
    if name == "backend" and _has_dense_rows(data):
        return
    if name in _NOT_WITH_TARGET and target and value != usual:
        flag, got = flag_words(name, value)
        raise OptionsError(
            f"{flag}: got {got} with {flag_name(target)}, whose rows do not use it; allowed: without {flag}, or a run "
            "of its own"
        )


def check_with_basis(name: str, value: Any, data: Mapping[str, Any]) -> None:
    """Check the bases against the options before them, or the fit or the rounding against the bases.

    Args:
        name: The option; there is nothing to check for others.
        value: Its checked value.
        data: Checked options before it.

    Raises:
        OptionsError: No row would use the value.
    """
    if name == "basis":
        _check_bases(value, data)
    elif name in ("fit", "rounding") and only_parametric(data.get("basis", ())):
        allowed = FIT if name == "fit" else ROUNDING
        if value != allowed and not (name == "rounding" and _has_dense_rows(data)):
            raise OptionsError(
                f"{flag_name(name)}: got {value} with --basis {','.join(data['basis'])}, whose parameters are not "
                f"linear; allowed: {allowed}"
            )


def _check_bases(bases: Sequence[str], data: Mapping[str, Any]) -> None:
    parametric, shown = list(filter(is_parametric, bases)), ",".join(bases)
    target, configs = _target(data), data.get("config", ())
    if target and parametric:
        raise OptionsError(
            f"--basis: got {parametric[0]} with {flag_name(target)}, which chooses terms of a series; allowed: "
            f"{', '.join(BASES)}"
        )
    if ALL in configs and parametric != list(bases):
        raise OptionsError(f"--config: got 'all' with --basis {shown}, where a series needs orders; allowed: {ALLOWED}")
    orders = [text for text in configs if text not in (ALL, AUTO, DENSE)]
    if only_parametric(bases) and orders:
        raise OptionsError(
            f"--config: got {orders[0]!r} with --basis {shown}, which has no orders; allowed: 'dense', or no --config"
        )


def _target(data: Mapping[str, Any]) -> str | None:
    return next((name for name in ("target_mb", "target_drop") if data.get(name)), None)


def _has_dense_rows(options: Mapping[str, Any]) -> bool:
    """Return True if a run also has rows of the uncompressed network, which use the rounding."""
    configs = options.get("config", ())
    return options.get("dense_bits") not in _NONE or DENSE in ([configs] if isinstance(configs, str) else configs)
