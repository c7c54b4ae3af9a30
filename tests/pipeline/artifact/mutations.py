"""Damage for the fuzz test: to a file's bytes, and to its parts, with a right checksum."""

import copy
import json
import random
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import torch

from pipeline.artifact.codec import TABLE
from pipeline.artifact.container import bytes_of, join, split
from tests.pipeline.artifact.samples import section

NASTY: list[Any] = [0, -1, 1, 2, 3, 9, 255, 2**31 - 1, 2**31, 2**63, 2**70, -(2**63), 0.5, 1e308, True, None, "", "x"]
NASTY += [
    "int",
    "minifloat",
    "stepped",
    "F64",
    "I8",
    "cosine",
    "../../etc/passwd",
    "os:system",
    "\0",
    [],
    [0],
    [2**31 - 1] * 4,
    {},
    {"a": []},
]


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """A file with a few bytes changed, cut, added, moved or repeated; never the file itself."""
    changed = bytearray(content)
    while bytes(changed) == content:
        at, length = rng.randrange(len(content)), rng.choice([1, 2, 8, 64, 1024])
        rng.choice(_DAMAGES)(changed, min(at, max(len(changed) - 1, 0)), length, rng)
    return bytes(changed)


def _flip(content: bytearray, at: int, length: int, rng: random.Random) -> None:
    for place in range(at, min(at + length, len(content))):
        content[place] ^= 1 << rng.randrange(8)


def _overwrite(content: bytearray, at: int, length: int, rng: random.Random) -> None:
    content[at : at + length] = rng.randbytes(min(length, len(content) - at))


def _claim(content: bytearray, at: int, length: int, rng: random.Random) -> None:
    content[:8] = rng.choice([rng.randrange(2**64), rng.randrange(2**12), 2**63, len(content)]).to_bytes(8, "little")


def _cut(content: bytearray, at: int, length: int, rng: random.Random) -> None:
    del content[at:]


def _remove(content: bytearray, at: int, length: int, rng: random.Random) -> None:
    del content[at : at + length]


def _insert(content: bytearray, at: int, length: int, rng: random.Random) -> None:
    content[at:at] = rng.randbytes(length)


def _append(content: bytearray, at: int, length: int, rng: random.Random) -> None:
    content += rng.randbytes(length)


def _move(content: bytearray, at: int, length: int, rng: random.Random) -> None:
    block = content[at : at + length]
    del content[at : at + length]
    place = rng.randrange(len(content) + 1)
    content[place:place] = block


_DAMAGES: list[Callable[[bytearray, int, int, random.Random], None]] = [
    _flip,
    _overwrite,
    _claim,
    _cut,
    _remove,
    _insert,
    _append,
    _move,
]


class Story:
    """A file's parts, which a mutation changes and which are then written with a right checksum."""

    def __init__(self, content: bytes) -> None:
        contents = split(BytesIO(content))
        self.header: Any = json.loads(contents.text)
        self.sections = dict(contents.sections)
        self.table: Any = json.loads(zlib.decompress(bytes_of(self.sections.pop(TABLE))))

    def copy(self) -> "Story":
        """A story to change; the tensors are shared, and replaced rather than changed."""
        other = copy.copy(self)
        other.header, other.table = (json.loads(json.dumps(part)) for part in (self.header, self.table))
        other.sections = dict(self.sections)
        return other

    def mutated(self, rng: random.Random) -> bytes:
        """The file with one or two of its parts changed."""
        changed = self.copy()
        for _ in range(rng.choice([1, 1, 2])):
            rng.choice([changed._change_header, changed._change_table, changed._change_section])(rng)
        sections = {**changed.sections, TABLE: section(zlib.compress(json.dumps(changed.table).encode()))}
        return join(json.dumps(changed.header), sections)

    def _change_header(self, rng: random.Random) -> None:
        _change(self.header, rng)

    def _change_table(self, rng: random.Random) -> None:
        _change(self.table, rng)

    def _change_section(self, rng: random.Random) -> None:
        filled = [name for name, values in self.sections.items() if len(values)]
        if not filled:
            return
        name = rng.choice(filled)
        values = self.sections[name].clone()
        kind = rng.randrange(4)
        if kind == 0:
            del self.sections[name]
        elif kind == 1:
            self.sections[name] = values[: rng.randrange(len(values) + 1)]
        elif kind == 2:
            self.sections[name] = torch.cat([values, values[: rng.randrange(1, 9)]])
        else:
            raw = values.view(torch.uint8)
            for _ in range(rng.randrange(1, 9)):
                raw[rng.randrange(len(raw))] = rng.choice([0, 127, 128, 255, rng.randrange(256)])
            self.sections[name] = values


def _change(tree: Any, rng: random.Random) -> None:
    """Change something somewhere in a JSON value, unless it is empty."""
    if not tree:
        return
    while True:
        key = rng.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
        if not isinstance(tree[key], dict | list) or not tree[key] or rng.random() < 0.1:
            break
        tree = tree[key]
    kind = rng.randrange(6)
    if kind == 0:
        del tree[key]
    elif kind == 1 and isinstance(tree, list):
        tree.insert(key, copy.deepcopy(tree[key]))
    elif kind == 2 and isinstance(tree, list):
        rng.shuffle(tree)
    elif kind == 3 and isinstance(tree, dict):
        tree[rng.choice(["x", "terms", "kernel", "basis", "bias", "bits"])] = copy.deepcopy(rng.choice(NASTY))
    else:
        tree[key] = copy.deepcopy(rng.choice(NASTY))
