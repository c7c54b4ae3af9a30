"""How a run ends: the exit codes, and what went wrong as the code and the one sentence that tell it."""

from dataclasses import dataclass

from basis.errors import CompressionError
from pipeline.errors import BusyError, ClusterError, LostProcessError, OptionsError
from pipeline.interruption import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from reports.model import EXIT_DONE, EXIT_GATE

EXIT_INTERNAL, EXIT_OPTIONS, EXIT_DATA = 1, 2, 4

EXIT_CODES = {
    EXIT_DONE: "done",
    EXIT_INTERNAL: "internal error, a folder that cannot be written, or one that another run did not free in time",
    EXIT_OPTIONS: "wrong arguments or options",
    EXIT_GATE: "a gate missed; the report is written",
    EXIT_DATA: "data or weights missing or damaged",
    EXIT_INTERRUPTED: "interrupted (Ctrl-C)",
    EXIT_TERMINATED: "terminated (SIGTERM)",
}
"""Every exit code and what it means."""

_RESUME = "to go on from the last checkpoint, run the same command again"
_CODES: tuple[tuple[type[BaseException], int], ...] = (  # the first that fits
    (OptionsError, EXIT_OPTIONS),
    (BusyError, EXIT_INTERNAL),
    (ClusterError, EXIT_INTERNAL),
    (LostProcessError, EXIT_INTERNAL),
    (CompressionError, EXIT_DATA),
    (OSError, EXIT_INTERNAL),
    (KeyboardInterrupt, EXIT_INTERRUPTED),
    (Terminated, EXIT_TERMINATED),
)


@dataclass(frozen=True)
class Failure:
    """What ended a run before it was done.

    Attributes:
        type: The name of the exception's class.
        message: One sentence.
        exit_code: See ``EXIT_CODES``.
        known: Whether the sentence tells all of it; otherwise it is a defect, to be shown with its traceback.
    """

    type: str
    message: str
    exit_code: int
    known: bool

    @property
    def status(self) -> str:
        """The report's word for it: ``failed`` or ``interrupted``."""
        return "interrupted" if self.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED) else "failed"


def failure_of(error: BaseException) -> Failure:
    """What an exception that ended a run comes to."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    sentence = f"internal error: {type(error).__name__}: {error}" if code is None else _sentence(error)
    name, known = type(error).__name__, code is not None
    return Failure(name, " ".join(sentence.split()), EXIT_INTERNAL if code is None else code, known)


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted; {_RESUME}"
    if isinstance(error, Terminated):
        return f"terminated; {_RESUME}"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return str(error)
