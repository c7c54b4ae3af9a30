"""Observe the additions at the end of residual blocks while a network runs.

Additions are calls of functions, not modules, so hooks of modules do not see them. A ``TorchFunctionMode`` intercepts
every call of torch instead. In a BasicBlock of a ResNet it sees, from top to bottom:

    code of the block           intercepted call            watched tensors afterwards
    --------------------------  --------------------------  -----------------------------------------
    out = self.conv2(out)       conv2d(out, w)              none; the forward hook of conv2 then calls
                                                            watch("conv2", out):  [out]
    out = self.bn2(out)         batch_norm(out, ...)        [out, bn2(out)]: one normalization is followed
    identity = self.down(x)     conv2d(x, w), batch_norm    [out, bn2(out)]: the call reads neither of them
    out += identity             Tensor.__iadd__(bn2(out),   ``on_addition(Addition("conv2", source=out,
                                                identity)   output=bn2(out), other=identity))`` first, then []
    out = self.relu(out)        relu(out)                   []

Any other call that reads a watched tensor ends the watch: ``torch.cat``, a scaling, a second normalization. A change in
place is noticed by the version counter of the tensor. Therefore nothing but the addition has read the watched values,
and ``on_addition`` may replace them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from basis.patches import Sample, by_sample

FORMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
# Gain of a channel as a share of the largest gain of its normalization. A smaller one cannot move the sum.
MIN_GAIN = 1e-3


class Addition(NamedTuple):
    """An addition that is about to happen.

    Attributes:
        name: Name of the layer that one operand comes from.
        source: The layer's output, (N, C, H, W).
        output: The operand: ``source`` itself, or the result of a batch normalization of it.
        other: The other operand, of the same shape.
    """

    name: str
    source: Tensor
    output: Tensor
    other: Tensor

    @property
    def normalized(self) -> bool:
        """True if a batch normalization lies between the layer and the addition."""
        return self.output is not self.source


class Additions(TorchFunctionMode):
    """Calls a function before a watched output is added to another tensor of its shape.

    One output is watched at a time. The watch ends when a call reads or changes the output. The result of one batch
    normalization of it is watched, too. At the addition, the other operand is therefore independent of the output, and
    no other call has read the output. Additions scaled by ``alpha`` are ignored.

    Args:
        on_addition: Called before the addition; its own calls of torch are not intercepted.
    """

    def __init__(self, on_addition: Callable[[Addition], None]) -> None:
        super().__init__()
        self._on_addition, self._name = on_addition, ""
        self._outputs: list[tuple[Tensor, int]] = []  # the output, then its normalized form; with their versions

    def watch(self, name: str, output: Tensor) -> None:
        """Watch this output, and no other. Inference tensors have no version counter and are not watched."""
        self._name = name
        self._outputs = [] if output.is_inference() else [(output, version(output))]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``; report an addition first, and end the watch if the call has read a watched tensor."""
        kwargs = kwargs or {}
        if not self._outputs or not any(_holds(self._outputs, tensor) for tensor in tensors_in((args, kwargs))):
            return func(*args, **kwargs)
        if func in FORMS and kwargs.keys() <= {"input", "other"}:
            self._report([*args, *kwargs.values()])
        watched, normalizes = self._outputs, self._normalizes(func, args)
        self._outputs = []
        result = func(*args, **kwargs)
        if normalizes:
            self._outputs = [*watched, (result, version(result))]
        elif all(_holds(watched, tensor) for tensor in tensors_in(result)):
            self._outputs = watched  # only its shape was read, or it was returned as it is, as by dropout in eval mode
        return result

    def _normalizes(self, func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
        return func is functional.batch_norm and len(self._outputs) == 1 and _holds(self._outputs, args[0])

    def _report(self, operands: list[Any]) -> None:
        (source, _), (output, _) = self._outputs[0], self._outputs[-1]
        others = [x for x in operands if isinstance(x, Tensor) and not _holds(self._outputs, x)]
        unchanged = all(_holds(self._outputs, tensor) for tensor, _ in self._outputs)
        if unchanged and any(x is output for x in operands) and len(others) == 1 and others[0].shape == output.shape:
            self._on_addition(Addition(self._name, source, output, others[0]))


def version(tensor: Tensor) -> int:
    """Return the number of changes in place of a tensor; -1 for an inference tensor, which has no such counter."""
    return -1 if tensor.is_inference() else tensor._version


def missing_output(
    addition: Addition, originals: Tensor, chosen: list[Sample], groups: int, norm: nn.BatchNorm2d | None
) -> Iterator[Tensor]:
    """Compute the change of a convolution's outputs that makes the sum after it equal to the original's sum.

    Args:
        addition: The addition in the compressed network.
        originals: The other operand in the original network, at the sampled positions, (groups, rows, O / groups).
        chosen: The samples.
        groups: The convolution's groups.
        norm: The batch normalization between the convolution and the sum.

    Yields:
        For each sample (groups, rows, O / groups), in units of the convolution's outputs; 0 in channels whose gain is
        at most ``MIN_GAIN``.
    """
    gain = torch.ones(addition.other.shape[1], device=addition.other.device) if norm is None else _gain(norm)
    gain = torch.where(gain.abs() <= MIN_GAIN * gain.abs().max(), torch.inf, gain).view(groups, 1, -1)
    for original, sample in zip(by_sample(originals, chosen), chosen, strict=True):
        yield (original - sample.of(addition.other.float(), groups)) / gain


def _gain(norm: nn.BatchNorm2d) -> Tensor:
    """Return the factor of each channel in a batch normalization in evaluation mode: (C,)."""
    assert norm.running_var is not None
    gain = (norm.running_var + norm.eps).rsqrt()
    return gain if not norm.affine else gain * norm.weight


def _holds(outputs: list[tuple[Tensor, int]], tensor: Tensor) -> bool:
    """Return True if the tensor is one of ``outputs`` and was not changed since."""
    return any(tensor is output and version(output) == then for output, then in outputs)


def tensors_in(values: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and dicts."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
