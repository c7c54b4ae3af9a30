"""A decoder of the stream of artifacts, written from docs/artifact.md alone: numpy and the standard library."""

from collections.abc import Iterator

import numpy as np

Q = (65536, 77936, 92682, 110218)


class Bits:
    """Numbers read from bits."""

    def __init__(self, content: bytes) -> None:
        self.left = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little").tolist()[::-1]

    def take(self, width: int) -> int:
        return sum(self.left.pop() << place for place in range(width))

    def signed(self) -> int:
        length = self.take(6)
        z = 2**length + self.take(length) - 1
        return -(z + 1) // 2 if z % 2 else z // 2


def varint(content: bytes) -> tuple[int, bytes]:
    """A number, and the bytes after it."""
    number = 0
    for place, byte in enumerate(content):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, content[place + 1 :]
    raise AssertionError("no end")


def power(j: int) -> int:
    return Q[j % 4] << j // 4 if j >= 0 else Q[j % 4] >> -(j // 4)


def frequencies(weights: list[int]) -> list[int]:
    n, whole = sum(weight > 0 for weight in weights), sum(weights)
    found = [max(1, weight * (2**14 - 1 - n) // whole) if weight else 0 for weight in weights]
    found[found.index(max(found))] += 2**14 - 1 - sum(found)
    return [*found, 1]


def shape(p: int, r: int, c: int) -> tuple[int, list[int]]:
    """The first integer, and the frequencies."""
    w, step = 2**24, 2**16 - power(-r)
    change = 2**16 if c == 0 else 2**16 - power(-2 * c)
    sides: list[int] = []
    while w and w * 2**16 >= sum(sides) and len(sides) < 2047:
        sides.append(w)
        w, step = w * step >> 16, step * change >> 16
    zero = max(1, 2 * sum(sides) * power(p - 32) >> 16)
    return -len(sides), frequencies([*sides[::-1], zero, *sides])


def tables(bits: Bits, count: int) -> list[tuple[int, list[int]]]:
    """The first integer and the frequencies of each described table; no frequencies for a constant."""
    found, recent = [], []
    for _ in range(count):
        kind = bits.take(2)
        if kind == 0:
            table = (bits.signed(), [])
        elif kind == 1:
            table = shape(bits.take(6), bits.take(6), bits.take(5))
        elif kind == 2:
            low, integers_of_table = bits.signed(), bits.take(12) + 1
            levels = [bits.take(6) for _ in range(integers_of_table)]
            table = (low, frequencies([power(level - 63) if level else 0 for level in levels]))
        else:
            table = recent[bits.take(3)]
        recent = [table, *(other for other in recent if other != table)][:8]
        found.append(table)
    return found


class Lanes:
    """The states of the lanes, which give symbols."""

    def __init__(self, states: np.ndarray, words: np.ndarray) -> None:
        self.x, self.words, self.symbol, self.word = states, words, 0, 0

    def take(self, chosen: list[list[int]], which: np.ndarray) -> np.ndarray:
        """The next symbols, each by the frequencies ``chosen[which]``."""
        slots = np.stack([np.repeat(np.arange(len(each)), each) for each in chosen])
        f, c = np.zeros((2, len(chosen), 4097), np.int64)
        for number, each in enumerate(chosen):
            f[number, : len(each)], c[number, : len(each)] = each, np.cumsum(each) - each
        found = np.zeros(len(which), np.int64)
        for at, lanes in self.pieces(len(which)):
            table, own = which[at], self.x[lanes]
            s = own % 2**14
            found[at] = symbols = slots[table, s]
            own = f[table, symbols] * (own // 2**14) + s - c[table, symbols]
            (short,) = (own < 2**16).nonzero()
            own[short] = 2**16 * own[short] + self.words[self.word : self.word + len(short)]
            self.word += len(short)
            self.x[lanes] = own
        return found

    def pieces(self, count: int) -> Iterator[tuple[slice, slice]]:
        """The places of symbols that neighbouring lanes give together, and these lanes."""
        done = 0
        while done < count:
            lane = self.symbol % len(self.x)
            size = min(len(self.x) - lane, count - done)
            yield slice(done, done + size), slice(lane, lane + size)
            done, self.symbol = done + size, self.symbol + size


def decode(stream: bytes, counts: list[int], shapes: list[tuple[int, int, int]]) -> tuple[list, list]:
    """The groups and the blocks."""
    lanes = 2 ** stream[0]
    described, left = varint(stream[1:])
    word_count, left = varint(left)
    groups, left = varint(left)
    classes, left = varint(left)
    bits, left = Bits(left[:described]), left[described:]
    x = np.frombuffer(left[: 4 * lanes], "<u4").astype(np.int64)
    left = left[4 * lanes :]
    words, escapes = np.frombuffer(left[: 2 * word_count], "<u2").astype(np.int64), Bits(left[2 * word_count :])
    has = [bits.take(1) == 1 for _ in shapes]
    classed = [shape for shape, flag in zip(shapes, has, strict=True) if flag]
    plain = [shape for shape, flag in zip(shapes, has, strict=True) if not flag]
    all_counts = [*counts, *(sum(sizes) for sizes in zip(*classed, strict=True))]
    all_counts += [rows * columns for terms, rows, columns in plain for _ in range(terms)]
    assert groups == len(all_counts)
    assert bool(classes) == any(has)
    assert classes <= 64
    found_tables = tables(bits, groups + classes)
    assert len(bits.left) < 8
    assert not any(bits.left)
    source = Lanes(x, words)
    found = [
        integers(source, [table], np.zeros(n, int), escapes)
        for n, table in zip(all_counts, found_tables[:groups], strict=True)
    ]
    given, more = found[: len(counts)], iter(found[len(counts) :])
    parts = [split(next(more), list(sizes)) for sizes in zip(*classed, strict=True)]
    owns, blocks = zip(*parts, strict=True) if parts else (), []
    owners = iter(owns)
    for (terms, rows, columns), flag in zip(shapes, has, strict=True):
        if flag:
            differences, of_rows, of_columns = next(owners)
            sums = np.cumsum(differences)[:, None, None] + of_rows[:, None] + of_columns
            which = np.minimum(np.maximum(sums, 0), classes - 1)
            block = integers(source, found_tables[groups:], which.ravel(), escapes)
        else:
            block = np.concatenate([next(more) for _ in range(terms)])
        blocks.append(block.reshape(terms, rows, columns))
    assert source.word == len(words)
    assert (source.x == 2**16).all()
    assert len(escapes.left) < 8
    return given, blocks


def split(values: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    ends = np.cumsum(sizes)
    return [values[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def integers(source: Lanes, chosen: list[tuple[int, list[int]]], which: np.ndarray, escapes: Bits) -> np.ndarray:
    """The next integers, each of the table ``chosen[which]``."""
    low, last = np.array([first for first, _ in chosen]), np.array([len(each) - 1 for _, each in chosen])
    values = low[which]
    (coded,) = (last[which] >= 0).nonzero()
    if len(coded):
        symbols = source.take([each or [2**14] for _, each in chosen], which[coded])
        values[coded] += symbols
        for place, symbol in zip(coded, symbols, strict=True):
            if symbol == last[which[place]]:
                values[place] = escapes.signed()
    return values
