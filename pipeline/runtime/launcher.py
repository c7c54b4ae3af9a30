"""What a launcher such as torchrun or ``accelerate launch`` says of this process; loads nothing heavy."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.errors import OptionsError

NEEDED: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OTHERS: Final = ("LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE", "ROLE_NAME")
_PREFIX: Final = "TORCHELASTIC_"
_TOLD: Final = "told by process"


@dataclass(frozen=True)
class Launch:
    """The place of a process among those that run the command together.

    Attributes:
        rank: Its number among all, from 0; number 0 is the main one, which writes and prints.
        count: How many there are.
        local_rank: Its number among those of its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read the variables that launchers set.

    Returns:
        The process' place; that of the only one where no launcher started it.

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
    """What messages begin with: who says it, or nothing where that is the main process."""
    try:
        launch = launched(environment)
    except OptionsError:  # to be told as such; its place is not known
        return ""
    return "" if launch.is_main else f"process {launch.rank} of {launch.count}: "


def mark_reported_by(error: Exception, rank: int) -> None:
    """Note on an error that another process tells it too, so that the program's user reads it once."""
    error.add_note(f"{_TOLD} {rank}")


def is_reported_elsewhere(error: BaseException | None) -> bool:
    """Whether another process tells this error."""
    return any(note.startswith(_TOLD) for note in getattr(error, "__notes__", ()))


def exit_if_distributed(code: int) -> None:
    """End this process now if it failed as one of several; the interpreter's own end might wait for their answers."""
    try:
        several = launched().count > 1
    except OptionsError:
        return
    if several:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def without_launch(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process of its own, which is none of those that were launched together."""
    taken_out = {*NEEDED, *_OTHERS}
    return {k: value for k, value in environment.items() if k not in taken_out and not k.startswith(_PREFIX)}


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal():
        raise OptionsError(f"processes: {name} is {text!r}; allowed: a whole number of 0 or more")
    return int(text)
