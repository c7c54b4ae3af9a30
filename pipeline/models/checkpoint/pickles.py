"""Interpret a pickle as data: its opcodes build plain containers, tensors and placeholders, and no code of it runs.

Python's unpickler imports the classes that a file names and calls them. This interpreter does neither. A class or
function is a ``Global``, a pair of names. A call of a function in ``REBUILD``, which make tensors and containers,
returns its result. Every other call returns a ``Placeholder`` that holds the name and the arguments.
"""

import pickletools
import re
from collections.abc import Callable, Iterable, Mapping
from pickle import UnpicklingError
from typing import IO, Any, Final

from pipeline.models.checkpoint.rebuild import REBUILD, REBUILD_TYPE, RENAMED, Global, Placeholder, Rebuild

# A placeholder would make these harmless too. But no training script stores them: the file is an attack.
# Python 2 calls `subprocess` `commands`, which may also be a module of the user.
_HOSTILE: Final = re.compile(
    r"(os|posix|nt|sys|subprocess|shutil|socket|runpy|importlib|ctypes|pty|webbrowser)\..*|_?io\.open"
    r"|commands\.(call|check_call|check_output|getoutput|getstatusoutput|run|Popen)"
    r"|eval|exec|execfile|compile|open|__import__"
)


class HostileError(Exception):
    """A pickle that would run code of the system if it were unpickled."""


LoadStorage = Callable[[tuple[Any, ...]], Any]


def read_pickle(file: IO[bytes], load_storage: LoadStorage, rebuild: Mapping[Global, Rebuild] | None = None) -> Any:
    """Read one pickle from a file, which is then positioned after it.

    Args:
        file: A binary file.
        load_storage: Returns the value of a persistent id: for torch, a 1-D tensor of a storage's values.
        rebuild: Functions in addition to ``REBUILD``.

    Returns:
        Lists, dicts, sets, numbers, text, bytes, tensors, ``Global`` and ``Placeholder`` objects.

    Raises:
        HostileError: The pickle refers to a function that runs commands or code.
        Exception: Anything, if the pickle is damaged.
    """
    machine = _Machine(load_storage, {**REBUILD, **(rebuild or {})})
    for opcode, argument, _ in pickletools.genops(file):
        handler = _HANDLERS.get(opcode.name)
        if handler is None:
            raise UnpicklingError(f"the opcode {opcode.name} is not supported")
        handler(machine, argument)
    return machine.stack.pop()


_MARK: Final = object()


class _Machine:
    """The stack and the memo of a pickle's interpreter."""

    def __init__(self, load_storage: LoadStorage, rebuild: Mapping[Global, Rebuild]) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.load_storage = load_storage
        self._rebuild = rebuild

    def pop_mark(self) -> list[Any]:
        """Remove and return the values above the last mark."""
        found = []
        while (value := self.stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    def drop(self) -> None:
        """Remove the value on top."""
        self.stack.pop()

    def drop_mark(self) -> None:
        """Remove the values above the last mark."""
        self.pop_mark()

    def refer(self, module: str, name: str) -> None:
        """Push a ``Global``."""
        found = Global(RENAMED.get(module, module), name)
        if _HOSTILE.fullmatch(str(found)):
            raise HostileError(str(found))
        self.stack.append(found)

    def call(self, function: Any, args: Any) -> Any:
        """Return the value that stands for a call."""
        if isinstance(function, Placeholder):  # such as a bound method
            return Placeholder(function.type_name, tuple(args))
        if not isinstance(function, Global):
            raise UnpicklingError(f"a {type(function).__name__} is called")
        if function == REBUILD_TYPE:  # a subclass of Tensor: the class is dropped
            return self.call(args[0], args[2])
        known = self._rebuild.get(function)
        return Placeholder(_type_name(function, args), tuple(args)) if known is None else known(*args)


def _type_name(function: Global, args: tuple[Any, ...]) -> str:
    """Return the name of the class that is made; some functions make an object of their first argument."""
    indirect = function.module == "copyreg" or function.name == "_rebuild_wrapper_subclass"
    return str(args[0] if indirect and args and isinstance(args[0], Global) else function)


def _store(target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
    items = target.items if isinstance(target, Placeholder) else target
    if type(items) is not dict:
        raise UnpicklingError(f"items are stored in a {type(items).__name__}")
    items.update(pairs)


def _extend(target: Any, values: Iterable[Any]) -> None:
    if type(target) is list:
        target.extend(values)
    elif type(target) is set:
        target.update(values)
    elif not isinstance(target, Placeholder):  # values of an unknown list are not needed
        raise UnpicklingError(f"values are added to a {type(target).__name__}")


def _set_items(machine: _Machine, _: Any) -> None:
    values = machine.pop_mark()
    _store(machine.stack[-1], zip(values[::2], values[1::2], strict=True))


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _store(machine.stack[-1], [(key, value)])


def _add_items(machine: _Machine, _: Any) -> None:
    values = machine.pop_mark()
    _extend(machine.stack[-1], values)


def _append(machine: _Machine, _: Any) -> None:
    value = machine.stack.pop()
    _extend(machine.stack[-1], [value])


def _build(machine: _Machine, _: Any) -> None:
    state = machine.stack.pop()
    if isinstance(machine.stack[-1], Placeholder):
        machine.stack[-1].state = state


def _reduce(machine: _Machine, _: Any) -> None:
    args, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.call(function, args))


def _new_object_with_keywords(machine: _Machine, _: Any) -> None:
    machine.stack.pop()
    _reduce(machine, None)


def _object(machine: _Machine, _: Any) -> None:
    function, *args = machine.pop_mark()
    machine.stack.append(machine.call(function, tuple(args)))


def _instance(machine: _Machine, argument: str) -> None:
    args = machine.pop_mark()
    machine.refer(*argument.split(" ", 1))
    machine.stack.append(machine.call(machine.stack.pop(), tuple(args)))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.refer(module, name)


def _last(count: int) -> Callable[[_Machine, Any], None]:
    def pack(machine: _Machine, _: Any) -> None:
        values = machine.stack[-count:]
        del machine.stack[-count:]
        machine.stack.append(tuple(values))

    return pack


def _marked(make: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make(machine.pop_mark()))


def _fresh(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


def _push(machine: _Machine, value: Any) -> None:
    machine.stack.append(value)


def _get(machine: _Machine, index: int) -> None:
    machine.stack.append(machine.memo[int(index)])


def _put(machine: _Machine, index: int) -> None:
    machine.memo[int(index)] = machine.stack[-1]


_VALUES: Final = re.compile(r"(SHORT_)?(BIN)?(INT|FLOAT|STRING|UNICODE|BYTES)[128]?|LONG[14]?|BYTEARRAY8")

_HANDLERS: Final[dict[str, Callable[[_Machine, Any], None]]] = {
    **{each.name: _push for each in pickletools.opcodes if _VALUES.fullmatch(each.name)},
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": lambda machine, _: _put(machine, len(machine.memo)),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": _fresh(tuple),
    "EMPTY_LIST": _fresh(list),
    "EMPTY_DICT": _fresh(dict),
    "EMPTY_SET": _fresh(set),
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: machine.drop_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "TUPLE1": _last(1),
    "TUPLE2": _last(2),
    "TUPLE3": _last(3),
    "TUPLE": _marked(tuple),
    "LIST": _marked(list),
    "FROZENSET": _marked(frozenset),
    "DICT": _marked(lambda values: dict(zip(values[::2], values[1::2], strict=True))),
    "APPEND": _append,
    "APPENDS": _add_items,
    "ADDITEMS": _add_items,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "GLOBAL": lambda machine, argument: machine.refer(*argument.split(" ", 1)),
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "OBJ": _object,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_with_keywords,
    "REDUCE": _reduce,
    "BUILD": _build,
    "PERSID": lambda machine, argument: machine.stack.append(machine.load_storage(argument)),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.load_storage(machine.stack.pop())),
}
