"""Import large libraries without the garbage collector, which takes a fifth of the time and finds nothing."""

import gc
import sys
from importlib import import_module


def import_libraries(*names: str) -> None:
    """Import modules while the garbage collector is off, and exempt the objects of the process from later collections.

    PyTorch and the libraries that need it create a million objects that live as long as the process. Only programs call
    this function, because it exempts all objects. If every module is loaded already, it does nothing.

    Args:
        names: Full names of the modules.
    """
    if all(name in sys.modules for name in names):
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        for name in names:
            import_module(name)
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
