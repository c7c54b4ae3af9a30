"""Import the project's packages beside a user's modules of the same names.

The packages have common names, such as ``pipeline`` and ``reports``. A user's ``pipeline.py`` on the search path would
hide ours, and our loaded package would hide the user's module.
"""

import importlib
import sys
import threading
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

PACKAGES: Final = ("basis", "pipeline", "quant", "reports")
"""The project's packages, and so the parents of all its loggers."""
ROOT: Final = Path(__file__).resolve().parents[2]
"""The folder of the packages and of ``seriesquant.py``: a checkout, or site-packages."""


class OwnPackages:
    """Finder of the project's packages, for ``sys.meta_path``; it ignores the search path.

    Attributes:
        hidden: Names that it does not find at present.
    """

    def __init__(self) -> None:
        self.hidden: frozenset[str] = frozenset()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a package by its name; None for every other module."""
        if path is not None or name not in PACKAGES or name in self.hidden:
            return None
        return PathFinder.find_spec(name, [str(ROOT)])


FINDER: Final = OwnPackages()
_LOCK = threading.RLock()
_users: dict[str, ModuleType] = {}
"""Name -> a user's loaded module whose name is a package's or begins with one."""


def install() -> None:
    """Make this process find the project's packages first."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)


def user_modules() -> dict[str, ModuleType]:
    """Return a user's loaded modules with names of the project's packages; ``sys.modules`` holds ours instead."""
    return dict(_users)


@contextmanager
def hidden_for(folder: Path) -> Generator[None]:
    """Hide every package of the project whose name a user's module has, in a folder or on the search path.

    Inside, ``import quant`` imports the user's ``quant``. Afterwards the name stands for our package again. The user's
    modules are kept for the next call, so that they are loaded once.

    Args:
        folder: The folder of the user's modules; it is the first on the search path.
    """
    found = clashing(folder)
    if not found:
        yield
        return
    with _LOCK:
        ours, before = _taken(found), FINDER.hidden
        FINDER.hidden = before | found.keys()
        sys.modules.update(_still_wanted(found))
        importlib.invalidate_caches()
        try:
            yield
        finally:
            for name in _below(found, _users):
                del _users[name]
            _users.update(_taken(found))
            sys.modules.update(ours)
            FINDER.hidden = before


def clashing(folder: Path) -> dict[str, ModuleSpec]:
    """Return name -> spec of a user's module, for every package of the project that has one of the same name."""
    places = [str(folder), *(place for place in sys.path if Path(place).resolve() != ROOT)]
    specs = {name: PathFinder.find_spec(name, places) for name in PACKAGES}
    return {name: spec for name, spec in specs.items() if spec is not None and _is_users(name, spec)}


def _is_users(name: str, spec: ModuleSpec) -> bool:
    own = ROOT / name
    if spec.origin is not None:
        return own not in Path(spec.origin).resolve().parents
    # A folder without __init__.py: only one that holds modules can be imported from.
    folders = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    return any(place != own and any(place.glob("*.py")) for place in folders)


def _still_wanted(found: Mapping[str, ModuleSpec]) -> dict[str, ModuleType]:
    """Return the kept modules of the names, but for modules of another folder than the one found now."""
    same = [
        name for name, spec in found.items() if getattr(_users.get(name), "__file__", None) == spec.origin is not None
    ]
    return {name: _users[name] for name in _below(same, _users)}


def _taken(names: Collection[str]) -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in _below(names, sys.modules)}


def _below(names: Collection[str], modules: Mapping[str, ModuleType]) -> list[str]:
    """Return the names of the modules that have one of the names, or are within a package of such a name."""
    return [name for name in modules if name.partition(".")[0] in names]
