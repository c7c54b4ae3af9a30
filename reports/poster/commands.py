"""Commands that fill the empty cells of the poster's tables, each for as many rows as possible."""

import shlex
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from reports.poster.printed import FAMILY, Printed

_CHECKPOINTS: Final = {"resnet20": "resnet20-12fca82f.th", "resnet32": "resnet32-d509ac18.th"}
IMAGENET_FOLDER: Final = "IMAGENET_FOLDER"
"""Stands for ImageNet's folder in a command."""


class _Group(NamedTuple):
    """Settings that the rows of one command share."""

    model: str
    fit: str
    seed: int
    family: bool


@dataclass
class _Wanted:
    """Rows of one command: configs, bases and bits in the order in which they are needed."""

    configs: dict[str, None] = field(default_factory=dict)
    bases: dict[str, None] = field(default_factory=dict)
    bits: dict[int, None] = field(default_factory=dict)


class Commands:
    """The commands that the rows of a page need, in the order in which they are first needed."""

    def __init__(self) -> None:
        self._groups: dict[_Group, _Wanted] = {}

    def number(self, model: str, printed: Printed, fit: str | None, seed: int | None) -> int:
        """Add a row to the command that fills it.

        Args:
            model: Network of the row.
            printed: The row.
            fit: Fit of the row's other figures; None takes the poster's, ``weights``.
            seed: Seed of the row's other figures; None takes the default.

        Returns:
            The command's number, from 1.
        """
        group = _Group(model, fit or "weights", seed or 0, printed.config == FAMILY)
        wanted = self._groups.setdefault(group, _Wanted())
        # The uncompressed network of a table of Top-1 is measured by every command of its network.
        if printed.bases or printed.bits:
            wanted.configs[printed.config] = None
        # Of several bases, each gives the row.
        wanted.bases.update(dict.fromkeys(printed.bases[:1]))
        wanted.bits.update(dict.fromkeys([printed.bits] if printed.bits else []))
        return list(self._groups).index(group) + 1

    def texts(self) -> list[str]:
        """Return the commands."""
        return [_command(group, wanted) for group, wanted in self._groups.items()]


def _command(group: _Group, wanted: _Wanted) -> str:
    words = ["seriesquant", "run", "--model", group.model]
    for config in wanted.configs or ("dense",):
        words += ["--config", config]
    if wanted.bases:
        words += ["--basis", ",".join(wanted.bases)]
    if not group.family:
        words += ["--fit", group.fit]
    words += ["--bits", ",".join(map(str, wanted.bits or (8,)))]
    words += ["--scheme", "minifloat"] if wanted.bits else []
    words += ["--rounding", "nearest"]
    words += ["--seed", str(group.seed)] if group.seed else []
    return f"{shlex.join(words)} {_data(group.model)}"


def _data(model: str) -> str:
    if model not in _CHECKPOINTS:
        return f"--data {IMAGENET_FOLDER}"
    return f"--weights $SERIESQUANT_DATA/{_CHECKPOINTS[model]} --data $SERIESQUANT_DATA/cifar10.npz"
