"""A stream of text that hands on its lines, for progress and logs that are shown in another process."""

from collections.abc import Callable
from io import TextIOBase
from typing import Any


class LineStream(TextIOBase):
    """Calls a function with every whole line that is written.

    Args:
        say: Gets a line, without its end.
    """

    def __init__(self, say: Callable[[str], Any]) -> None:
        """Nothing is written yet."""
        self._say, self._begun = say, ""

    def write(self, text: str) -> int:
        """Hand on the lines that the text ends, and keep the beginning of the next."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)
