"""Command lines of child processes that call one function."""

import sys
from collections.abc import Sequence
from typing import Final

from pipeline.runtime.packages import ROOT

# seriesquant.py makes the project's packages importable, whatever modules the search path leads to.
_CODE: Final = """
import sys
root, target, count, *words = sys.argv[1:]
sys.path.insert(0, root)
import seriesquant
sys.path[:] = words[int(count):]
from pipeline.runtime.imports import import_libraries
module, _, function = target.partition(":")
import_libraries(module)
sys.exit(getattr(sys.modules[module], function)(*words[:int(count)]))
"""


def child_command(target: str, *arguments: str, folders: Sequence[str] = ()) -> list[str]:
    """Return the command of a Python process that calls a function and exits with its result.

    The process gets this one's search path for modules, so that it imports the same modules from any folder.

    Args:
        target: ``module:function`` in the project; the function takes texts and returns an exit code or None.
        arguments: The function's arguments.
        folders: Folders to append to the search path.

    Example:
        >>> subprocess.run(child_command("pipeline.stages.verify:answer", "exchange"))
    """
    words = [str(ROOT), target, str(len(arguments)), *arguments, *sys.path, *folders]
    return [sys.executable, "-P", "-c", _CODE, *words]
