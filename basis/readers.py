"""Find the layers whose outputs are read by other code than a normalization, while a network runs."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from basis.additions import tensors_in, version


class OtherReaders(TorchFunctionMode):
    """Notes the layers whose outputs are read or changed by calls of torch. While it is paused, calls do not count.

    Calls that return no tensor, such as ``x.dim()``, or the unchanged output itself, such as dropout in evaluation
    mode, do not count.

    Attributes:
        names: The layers whose outputs were read.
        paused: True while calls do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.paused = False
        self._outputs: dict[int, tuple[str, weakref.ref[Tensor], int]] = {}  # with their versions

    def watch(self, name: str, output: Tensor) -> None:
        """Watch an output of a layer until the end of the pass. It is not kept in memory."""
        self._outputs[id(output)] = name, weakref.ref(output), version(output)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``, and note whether it has read an output."""
        result = func(*args, **(kwargs or {}))
        if not self.paused:
            self._note((args, kwargs), tensors_in(result))
        return result

    def layer_of(self, tensor: Tensor) -> str | None:
        """Return the layer whose output is this tensor; None if there is none."""
        name, output, _ = self._outputs.get(id(tensor), ("", None, 0))
        return name if output is not None and output() is tensor else None

    def returned(self, values: Any) -> None:
        """Note the layers whose outputs are among the values that the network returns."""
        self._note(values, None)

    def _note(self, read: Any, results: list[Tensor] | None) -> None:
        """Note the layers of watched outputs among nested values, unless the results are the unchanged output."""
        for tensor in tensors_in(read):
            name = self.layer_of(tensor)
            if name is None:
                continue
            unchanged = version(tensor) == self._outputs[id(tensor)][2]
            if results is None or not unchanged or any(each is not tensor for each in results):
                self.names.add(name)
