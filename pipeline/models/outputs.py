"""Select the logits among the outputs of a network: of a tuple, a dict or a dataclass."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline.errors import OptionsError

LOGITS: Final = "logits"
"""Name of the output that is selected by default."""


TOLERANCE: Final = 1e-3
"""Largest change of a logit by an exact change of the network, as a share of the largest logit."""


def select_output(model: nn.Module, output: str | None) -> nn.Module:
    """Make a network return its logits alone, by a forward hook that its copies keep.

    Args:
        model: The network, changed in place. A tensor that it returns is returned as it is, because training and
            evaluation may return different structures.
        output: Number of an output, counted from 0, or name of one. None selects the only tensor, the entry ``logits``,
            or the first output of a tuple or list.

    Returns:
        The network.
    """

    def keep_logits(module: nn.Module, inputs: tuple[Any, ...], result: Any) -> Tensor:
        return result if isinstance(result, Tensor) else logits_of(result, output, type(module).__name__)

    model.register_forward_hook(keep_logits)
    return model


def logits_of(result: Any, output: str | None, model_name: str) -> Tensor:
    """Return the selected tensor of a network's result.

    Args:
        result: A tensor, or a tuple, list, mapping or dataclass with tensors.
        output: See ``select_output``.
        model_name: Name of the network in messages.

    Raises:
        OptionsError: There is no such output, or it is no tensor.
    """
    if isinstance(result, Tensor) and output is None:
        return result
    entries = _entries(result)
    chosen = _default(entries) if output is None else output
    if chosen is None or not isinstance(entries.get(chosen), Tensor):
        got = "is missing" if output is None else f"got {output!r}"
        raise OptionsError(
            f"--output: {got} for {model_name}, which returns a {type(result).__name__}; allowed: the number or name "
            f"of a tensor in it: {_names(entries)}"
        )
    tensor: Tensor = entries[chosen]
    return tensor


def are_logits(output: Tensor) -> bool:
    """Return True if a softmax of outputs has a meaning: (N, classes), with two classes or more."""
    return output.ndim == 2 and output.shape[1] > 1


def check_rows(logits: Tensor, count: int, output: str | None, model_name: str, *, single: bool = False) -> None:
    """Check that a selected output has a row for each image.

    Args:
        logits: The output.
        count: Number of images.
        output: See ``select_output``.
        model_name: Name of the network in messages.
        single: True if the network returns this output alone.

    Raises:
        OptionsError: It has none, or another number of rows.
    """
    if logits.ndim == 0 or len(logits) != count:
        got, shape = "is missing" if output is None else f"got {output!r}", tuple(logits.shape)
        if single:
            raise OptionsError(
                f"the network {model_name} returns a tensor of the shape {shape} for {count} images; allowed: one "
                f"whose {images_first([logits], count)}"
            )
        raise OptionsError(
            f"--output: {got} for {model_name}, and the output has the shape {shape} for {count} images; allowed: the "
            f"number or name of an output with a row for each image, so that its {images_first([logits], count)}"
        )


def images_first(outputs: Sequence[Tensor], count: int) -> str:
    """Return what the first axis must be, with advice for sequences (T, N, C) and ensembles (M, N, C).

    Args:
        outputs: The outputs of a network without an axis of the images in front.
        count: Number of images.
    """
    advice = ", as a module around yours can return it with output.transpose(0, 1)"
    return "first axis counts the images" + (advice if any(count in each.shape[1:] for each in outputs) else "")


def tensors_of(result: Any) -> list[Tensor]:
    """Return all tensors of a network's result, in order."""
    if isinstance(result, Tensor):
        return [result]
    dataclass = dataclasses.is_dataclass(result) and not isinstance(result, type)
    if not dataclass and (isinstance(result, str) or not isinstance(result, Mapping | Sequence)):
        return []
    values = result if isinstance(result, Sequence) else _entries(result).values()
    return [tensor for value in values for tensor in tensors_of(value)]


def same_outputs(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Return True if no output differs by more than a share of the largest finite output; NaN is equal to NaN."""
    if found.shape != expected.shape:
        return False
    within = tolerance * float(expected.abs().nan_to_num(posinf=0.0).max())
    return bool(torch.allclose(found.float(), expected.float(), rtol=0.0, atol=within, equal_nan=True))


def _entries(result: Any) -> dict[str, Any]:
    """Return the outputs by name; outputs in a sequence have their number as a further name."""
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    if isinstance(result, Sequence) and not isinstance(result, str):
        names = getattr(result, "_fields", ())  # of a named tuple
        return {str(number): value for number, value in enumerate(result)} | dict(zip(names, result, strict=False))
    return {"0": result}


def _default(entries: Mapping[str, Any]) -> str | None:
    tensors = [name for name, value in entries.items() if isinstance(value, Tensor)]
    if LOGITS in tensors:
        return LOGITS
    if "0" in entries:
        return "0"
    return tensors[0] if len(tensors) == 1 else None


def _names(entries: Mapping[str, Any]) -> str:
    tensors = [name for name, value in entries.items() if isinstance(value, Tensor)]
    return ", ".join(tensors[:10]) or "it has none"
