"""Read the variables that a launcher such as torchrun or ``accelerate launch`` sets; imports nothing heavy."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.errors import OptionsError

NEEDED: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OTHERS: Final = ("LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME")
_PREFIX: Final = "TORCHELASTIC_"
_REPORTED: Final = "reported by process"
_SHARED: Final = "raised in all processes"


@dataclass(frozen=True)
class Launch:
    """The rank of this process among the processes of one run.

    Attributes:
        rank: From 0; rank 0 is the main process, which writes and prints.
        count: Number of processes (the world size).
        local_rank: Rank among the processes of this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Return True if this process writes and prints."""
        return self.rank == 0


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read the variables that launchers set.

    Args:
        environment: Name -> value; the process's environment by default.

    Returns:
        The rank of this process; rank 0 of 1 if no launcher started it.

    Raises:
        OptionsError: Only some of the variables are set, or they contradict one another.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return Launch()
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        raise OptionsError(
            f"processes: WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} is not set; allowed: all "
            f"of {', '.join(NEEDED)}, as torchrun and accelerate launch set them, or none"
        )
    rank, count, local_rank = (_number(environment, name) for name in NEEDED[:3])
    if rank >= count or local_rank > rank:
        raise OptionsError(
            f"processes: got RANK {rank}, WORLD_SIZE {count} and LOCAL_RANK {local_rank}; allowed: LOCAL_RANK at most "
            "RANK, and RANK below WORLD_SIZE"
        )
    return Launch(rank, count, local_rank)


def rank_prefix(environment: Mapping[str, str] = os.environ) -> str:
    """Return the prefix of this process's messages: empty in the main process."""
    try:
        launch = launched(environment)
    except OptionsError:  # the caller reports it; the rank is unknown
        return ""
    return "" if launch.is_main else f"process {launch.rank} of {launch.count}: "


def mark_reported_by(error: Exception, rank: int) -> None:
    """Mark an error that rank ``rank`` reports, so that this rank does not report it a second time."""
    error.add_note(f"{_REPORTED} {rank}")


def is_reported_elsewhere(error: BaseException | None) -> bool:
    """Return True if another rank reports this error."""
    return any(note.startswith(_REPORTED) for note in getattr(error, "__notes__", ()))


def mark_shared(error: Exception) -> None:
    """Mark an error that all ranks raise at the same time."""
    error.add_note(_SHARED)


def is_shared(error: BaseException) -> bool:
    """Return True if all ranks raise this error at the same time."""
    return _SHARED in getattr(error, "__notes__", ())


def has_met() -> bool:
    """Return True if this process is connected to the other ranks; imports nothing to find out."""
    is_initialized = getattr(sys.modules.get("torch.distributed"), "is_initialized", None)
    return is_initialized is not None and bool(is_initialized())


def exit_if_distributed(code: int) -> None:
    """Exit now if several ranks run: the interpreter's normal exit could wait for messages of the other ranks."""
    try:
        several = launched().count > 1
    except OptionsError:
        return
    if several:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def without_launch(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the launcher's variables, for a child process that is no rank of the run."""
    removed = {*NEEDED, *_OTHERS}
    return {k: value for k, value in environment.items() if k not in removed and not k.startswith(_PREFIX)}


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise OptionsError(f"processes: {name} is {text!r}; allowed: a whole number of 0 or more")
    return int(text)
