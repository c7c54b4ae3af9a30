"""Stand-ins for the classes and functions that a pickle names, and the few functions whose calls are evaluated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

# Python 2's names, which pickles of protocol 2 have.
RENAMED: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}


@dataclass(frozen=True)
class Global:
    """The name of a class or a function.

    Attributes:
        module: Its module.
        name: Its name in the module.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return self.name if self.module == "builtins" else f"{self.module}.{self.name}"


@dataclass(eq=False)
class Placeholder:
    """An object of a class that is not built.

    Attributes:
        type_name: Module and name of its class, or of the function that would have made it.
        args: Arguments of that class or function.
        state: Its attributes or other state; None if the pickle stores none.
        items: Its items, if it is a mapping.
    """

    type_name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


Rebuild = Callable[..., Any]


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    if not isinstance(storage, Tensor):  # of a type that is not read, such as a quantized one
        return storage
    return storage.as_strided(size, stride, offset)  # checks that they lie in the storage


def _typed_tensor(storage: Any, offset: int, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
    found = torch_dtype(dtype)
    return _tensor(storage.view(found) if isinstance(storage, Tensor) and found else storage, offset, size, stride)


def torch_dtype(value: Any) -> torch.dtype | None:
    """Return the dtype that a ``Global`` such as ``torch.float16`` names; None for any other value."""
    found = getattr(torch, value.name, None) if isinstance(value, Global) and value.module == "torch" else None
    return found if isinstance(found, torch.dtype) else None


def _first(value: Any, *_: Any) -> Any:
    return value


def _compiled(*args: Any) -> Any:
    """Return the network in a module that torch.compile returned; older files hold it in the module's state instead."""
    return args[0] if args else Placeholder(str(_COMPILED))


_COMPILED: Final = Global("torch._dynamo.eval_frame", "OptimizedModule")
REBUILD_TYPE: Final = Global("torch._tensor", "_rebuild_from_type_v2")
REBUILD: Final[dict[Global, Rebuild]] = {
    Global("torch._utils", "_rebuild_tensor"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    Global("torch._utils", "_rebuild_parameter"): _first,
    Global("torch._utils", "_rebuild_parameter_with_state"): _first,
    Global("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _first,
    Global("torch.nn.parameter", "Parameter"): _first,
    _COMPILED: _compiled,
    Global("torch", "Size"): tuple,
    Global("collections", "OrderedDict"): dict,
    Global("_codecs", "encode"): lambda text, encoding="latin1": str(text).encode("latin1"),
    Global("builtins", "set"): set,
}
"""Functions whose calls are evaluated; each is written here or a built-in container."""
