"""Import and build a user's network, named `module:callable`."""

import contextlib
import importlib
import inspect
import operator
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from pipeline.errors import OptionsError


def import_model(name: str, classes: int) -> nn.Module:
    """Import `module:callable` with the current folder on the path and call it.

    Args:
        name: `package.module:callable`. The callable gets `num_classes` if its signature accepts it.
        classes: Number of classes of the data.

    Returns:
        The network that the callable returns.

    Raises:
        OptionsError: If the module cannot be imported, the callable is missing or fails, or it returns something else.
    """
    with _current_folder_on_path():
        build = _find(name)
        arguments = {"num_classes": classes} if _accepts_classes(build) else {}
        try:
            model = build(**arguments)
        except Exception as error:
            raise OptionsError(
                f"the model {name!r} could not be built: calling it raised {_describe(error)}"
            ) from error
    if not isinstance(model, nn.Module):
        raise OptionsError(
            f"the model {name!r} must return a torch.nn.Module, but it returned a {type(model).__name__}"
        )
    return model


def _find(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise OptionsError(f"the model {name!r} must be written module:callable, for example my_networks:small_net")
    try:
        found = operator.attrgetter(attribute)(importlib.import_module(module_name))
    except Exception as error:
        raise OptionsError(
            f"the model {name!r} could not be imported from the current folder: {_describe(error)}"
        ) from error
    if isinstance(found, nn.Module) or not callable(found):
        raise OptionsError(
            f"the model {name!r} must be a callable that builds a network, but it is a {type(found).__name__}"
        )
    builder: Callable[..., Any] = found
    return builder


@contextlib.contextmanager
def _current_folder_on_path() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _accepts_classes(build: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(build).parameters
    except (TypeError, ValueError):
        return False
    by_keyword = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    named = "num_classes" in parameters and parameters["num_classes"].kind in by_keyword
    return named or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
