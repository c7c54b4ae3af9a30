"""Import and build a user's network, named ``module:callable`` or ``file.py:callable``."""

import contextlib
import importlib
import inspect
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from torch import nn

from pipeline.errors import OptionsError, described
from pipeline.options.paths import expanded, is_address
from pipeline.runtime.packages import hidden_for, user_modules
from pipeline.runtime.user_code import restored_settings

FORMS: Final = "module:callable, for example my_networks:small_net, or file.py:callable"


_loaded: set[str] = set()
"""Names of the modules that were loaded while a network was imported and built."""


@dataclass(frozen=True)
class Reference:
    """The place of a user's network.

    Attributes:
        module: Dotted name of the module.
        attribute: Name of the callable in the module.
        folder: The folder that the module is imported from.
        file: The module's file, if the name is a path; None for a module's name.
    """

    module: str
    attribute: str
    folder: Path
    file: Path | None = None


def reference(name: str) -> Reference:
    """Parse the name of a user's network.

    Args:
        name: ``package.module:callable``, from the current folder or the search path, or ``path/file.py:callable``. A
            file in a package, whose folder has an ``__init__.py``, is imported as a part of the package.

    Raises:
        OptionsError: The module or the callable is missing in the name, the file does not exist, or the name is an
            address.
    """
    if is_address(name):
        raise OptionsError(
            f"the model {name!r} is an address, and nothing is downloaded from addresses; allowed: a local copy, as "
            f"{FORMS}"
        )
    module, _, attribute = name.rpartition(":")
    if not module or not attribute:
        raise OptionsError(f"the model {name!r} must be written {FORMS}")
    path = expanded(module)
    is_path = "/" in module or (path.suffix == ".py" and path.is_file())
    if not is_path:
        return Reference(module, attribute, Path.cwd())
    file = (path if path.suffix == ".py" else path.with_name(f"{path.name}.py")).absolute()
    try:
        is_file = file.is_file()
    except OSError as error:
        raise OptionsError(
            f"the model {name!r} could not be imported: {file} cannot be read: {error.strerror}; allowed: {FORMS}"
        ) from error
    if not is_file:
        raise OptionsError(f"the model {name!r} could not be imported: there is no file {file}; allowed: {FORMS}")
    if ".." in file.parts:  # no name of a package
        file = file.parent.resolve() / file.name
    words, folder = [file.stem], file.parent
    while (folder / "__init__.py").is_file():
        words, folder = [folder.name, *words], folder.parent
    return Reference(".".join(words), attribute, folder, file)


def import_model(name: str, classes: int) -> nn.Module:
    """Import a user's module, with its folder on the search path, and call the callable.

    The folder stays on the search path, as the last one, because the network may import modules when it runs.

    Args:
        name: See ``reference``. The callable gets ``num_classes`` if its signature accepts it.
        classes: Number of classes of the data.

    Returns:
        The network that the callable returns.

    Raises:
        OptionsError: The module cannot be imported, the callable is missing or fails, or it returns something else.
    """
    place = reference(name)
    with _first_on_path(place.folder), hidden_for(place.folder), _recorded(), restored_settings():
        build = _find(name, place)
        arguments = {"num_classes": classes} if _accepts_classes(build) else {}
        try:
            model = build(**arguments)
        except (Exception, SystemExit) as error:  # a script parses its arguments, for example
            raise OptionsError(
                f"the model {name!r} could not be built: calling it raised {described(error)}"
            ) from error
    if not isinstance(model, nn.Module):
        raise OptionsError(
            f"the model {name!r} must return a torch.nn.Module, but it returned a {type(model).__name__}"
        )
    return model


def modules_of_networks() -> frozenset[str]:
    """Return the names of all modules that were loaded while this process imported and built users' networks."""
    return frozenset(_loaded)


@contextlib.contextmanager
def _recorded() -> Iterator[None]:
    before = set(sys.modules)
    try:
        yield
    finally:
        _loaded.update(sys.modules.keys() - before)


def loaded_module(name: str) -> ModuleType | None:
    """Return the loaded module of a network's name; None for another name, or if it is not loaded.

    Raises:
        OptionsError: See ``reference``.
    """
    if ":" not in name:
        return None
    module = reference(name).module
    return user_modules().get(module) or sys.modules.get(module)


def import_folder(name: str) -> Path | None:
    """Return the folder that a network's module was imported from; None if it has no file or is not loaded."""
    module = loaded_module(name)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return None
    levels = module.__name__.count(".") + (Path(file).stem == "__init__")
    return Path(file).absolute().parents[levels]


def _find(name: str, place: Reference) -> Callable[..., Any]:
    try:
        _forget_namesake(place)
        found = operator.attrgetter(place.attribute)(importlib.import_module(place.module))
    except (Exception, SystemExit) as error:
        hint = f"; allowed: {FORMS}" if place.module.endswith(".py") else ""
        raise OptionsError(
            f"the model {name!r} could not be imported from the current folder: {described(error)}{hint}"
        ) from error
    if isinstance(found, nn.Module) or not callable(found):
        raise OptionsError(
            f"the model {name!r} must be a callable that builds a network, but it is a {type(found).__name__}"
        )
    builder: Callable[..., Any] = found
    return builder


def _forget_namesake(place: Reference) -> None:
    """Drop a loaded module of the same name as a file's module that was read from another file."""
    loaded = sys.modules.get(place.module)
    if place.file is None or loaded is None or getattr(loaded, "__file__", None) is None:
        return
    if Path(str(loaded.__file__)).resolve() != place.file.resolve():
        del sys.modules[place.module]


@contextlib.contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    """Put a folder first on the search path; afterwards it is the last one, or where it was before."""
    first = str(folder)
    before = first in sys.path
    sys.path.insert(0, first)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(first)
        if not before:
            sys.path.append(first)


def _accepts_classes(build: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):
        return False
    by_keyword = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    named = "num_classes" in parameters and parameters["num_classes"].kind in by_keyword
    return named or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
