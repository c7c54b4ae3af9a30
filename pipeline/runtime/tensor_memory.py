"""Measure the memory of tensors that a computation holds at once."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _TensorMemory(TorchDispatchMode):
    """Sums the sizes of the storages that operators create and that still exist."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: set[int] = set()
        self.now = self.peak = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to exempt this mode from compilation, PyTorch would import its compiler, which takes a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._known.add(tensor.untyped_storage()._cdata)  # weights and inputs are not counted
        output = func(*args, **(kwargs or {}))
        for tensor in _tensors(output):
            self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address not in self._known:
            self._known.add(address)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, address, storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.now -= size


def _tensors(values: Any) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor) and each.layout == torch.strided]


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the largest number of bytes that tensors made by ``run`` hold at once; inputs and weights are not counted.

    Args:
        run: The computation. Its result is dropped.
    """
    memory = _TensorMemory()
    with memory:
        run()
    return memory.peak
