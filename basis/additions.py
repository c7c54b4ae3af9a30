"""Additions that join a convolution's output to a shortcut, seen as they happen, and what the sum lacks there."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from basis.patches import Sample, by_sample

FORMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
# A channel that its normalization scales by less than this share of its greatest scale cannot move a sum.
LEAST_GAIN = 1e-3


class Addition(NamedTuple):
    """An addition that is about to happen.

    Attributes:
        name: Whose output one operand is.
        source: The output, (N, C, H, W).
        output: The operand: the output itself, or what a batch normalization made of it.
        other: The other operand, of the same shape.
    """

    name: str
    source: Tensor
    output: Tensor
    other: Tensor

    @property
    def normalized(self) -> bool:
        """Whether a batch normalization comes between."""
        return self.output is not self.source


class Additions(TorchFunctionMode):
    """While it is active, it tells of the addition of a watched output to another tensor of its shape.

    One output is watched at a time: the last one. It is watched until something else reads or changes it, but for one
    batch normalization, whose result takes its place. So the other operand does not depend on it, and nothing but the
    addition has seen its values, which may still be replaced. Additions scaled by ``alpha`` do not count.

    Args:
        met: Called before the addition happens; its own computations are not seen.
    """

    def __init__(self, met: Callable[[Addition], None]) -> None:
        super().__init__()
        self._met, self._name = met, ""
        self._outputs: list[tuple[Tensor, int]] = []  # the output and its normalized form, with their versions

    def watch(self, name: str, output: Tensor) -> None:
        """Watch this output from now on, and no other. An inference tensor does not tell when it is changed."""
        self._name = name
        self._outputs = [] if output.is_inference() else [(output, version(output))]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function; before it, tell of an addition, and after it, forget an output that it has used."""
        kwargs = kwargs or {}
        if not self._outputs or not any(_holds(self._outputs, tensor) for tensor in _tensors((args, kwargs))):
            return func(*args, **kwargs)
        if func in FORMS and kwargs.keys() <= {"input", "other"}:
            self._tell([*args, *kwargs.values()])
        unread, normalizes = self._outputs, self._normalizes(func, args)
        self._outputs = []
        result = func(*args, **kwargs)
        if normalizes:
            self._outputs = [*unread, (result, version(result))]
        elif all(_holds(unread, tensor) for tensor in _tensors(result)):
            self._outputs = unread  # only its shape was asked for, or it was passed on, as dropout does in evaluation
        return result

    def _normalizes(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        return func is functional.batch_norm and len(self._outputs) == 1 and _holds(self._outputs, args[0])

    def _tell(self, operands: list[Any]) -> None:
        (source, _), (output, _) = self._outputs[0], self._outputs[-1]
        others = [x for x in operands if isinstance(x, Tensor) and not _holds(self._outputs, x)]
        unchanged = all(_holds(self._outputs, tensor) for tensor, _ in self._outputs)
        if unchanged and any(x is output for x in operands) and len(others) == 1 and others[0].shape == output.shape:
            self._met(Addition(self._name, source, output, others[0]))


def version(tensor: Tensor) -> int:
    """A number that grows when the tensor is changed in place; an inference tensor has none."""
    return -1 if tensor.is_inference() else tensor._version


def lacking(
    addition: Addition, originals: Tensor, chosen: list[Sample], groups: int, norm: nn.BatchNorm2d | None
) -> Iterator[Tensor]:
    """How much more a convolution should give, so that the sum that its output goes into is the original's sum.

    Args:
        addition: In the compressed network.
        originals: The other operand in the original network at the sampled positions, (groups, rows, O / groups).
        chosen: The samples.
        groups: The convolution's groups.
        norm: The batch normalization between the convolution and the sum.

    Yields:
        For each sample (groups, rows, O / groups), in units of the convolution's own outputs; 0 in channels that the
        normalization all but erases.
    """
    gain = torch.ones(addition.other.shape[1], device=addition.other.device) if norm is None else _gain(norm)
    gain = torch.where(gain.abs() < LEAST_GAIN * gain.abs().max(), torch.inf, gain).view(groups, 1, -1)
    for original, sample in zip(by_sample(originals, chosen), chosen, strict=True):
        yield (original - sample.of(addition.other.float(), groups)) / gain


def _gain(norm: nn.BatchNorm2d) -> Tensor:
    """What a batch normalization in evaluation mode multiplies each channel by: (C,)."""
    assert norm.running_var is not None
    gain = (norm.running_var + norm.eps).rsqrt()
    return gain if not norm.affine else gain * norm.weight


def _holds(outputs: list[tuple[Tensor, int]], tensor: Tensor) -> bool:
    """Whether a tensor is one of these, and has not been changed since."""
    return any(tensor is output and version(output) == then for output, then in outputs)


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in an argument, or in lists, tuples and dicts of arguments."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple | dict):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors(value)
