"""Scaled dot-product attention with four axes, the only number for which the exporter has an operator."""

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_AXES: Final = 4


class FourAxes(TorchFunctionMode):
    """Compute ``scaled_dot_product_attention`` of other shapes, such as (N, L, E), as (N', heads, L, E)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return _attention(*args, **(kwargs or {}))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **options: Any
) -> Tensor:
    leading = query.shape[:-2]
    same = key.shape[:-2] == leading == value.shape[:-2]
    if query.ndim == _AXES or not same:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask, *args, **options)
    if attn_mask is not None and attn_mask.ndim > 2:
        attn_mask = _with_four(attn_mask.expand(*leading, *attn_mask.shape[-2:]))
    q, k, v = _with_four(query), _with_four(key), _with_four(value)
    found = functional.scaled_dot_product_attention(q, k, v, attn_mask, *args, **options)
    return found.reshape(*leading, *found.shape[-2:])


def _with_four(x: Tensor) -> Tensor:
    """Return a tensor of four axes; the last three are kept, because the first holds the images."""
    while x.ndim < _AXES:
        x = x.unsqueeze(-3)
    return x if x.ndim == _AXES else x.flatten(0, x.ndim - _AXES)
