"""A decoder of the stream of artifacts, written from docs/artifact.md alone: numpy and the standard library."""

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


def tables(content: bytes, groups: int) -> list[tuple[int, list[int]]]:
    """The first integer and the frequencies of each group's table; no frequencies for a constant."""
    bits, found, recent = Bits(content), [], []
    for _ in range(groups):
        kind = bits.take(2)
        if kind == 0:
            table = (bits.signed(), [])
        elif kind == 1:
            table = shape(bits.take(6), bits.take(6), bits.take(5))
        elif kind == 2:
            low, count = bits.signed(), bits.take(12) + 1
            levels = [bits.take(6) for _ in range(count)]
            table = (low, frequencies([power(level - 63) if level else 0 for level in levels]))
        else:
            table = recent[bits.take(3)]
        recent = [table, *(other for other in recent if other != table)][:8]
        found.append(table)
    assert len(bits.left) < 8
    assert not any(bits.left)
    return found


def decode(stream: bytes, counts: list[int]) -> list[np.ndarray]:
    lanes = 2 ** stream[0]
    described, left = varint(stream[1:])
    word_count, left = varint(left)
    groups, left = varint(left)
    assert groups == len(counts)
    descriptions, left = left[:described], left[described:]
    x = np.frombuffer(left[: 4 * lanes], "<u4").astype(np.int64)
    left = left[4 * lanes :]
    words, escapes = np.frombuffer(left[: 2 * word_count], "<u2").astype(np.int64), Bits(left[2 * word_count :])
    found_tables = tables(descriptions, groups)
    table_of = np.repeat(np.arange(groups), [n if t[1] else 0 for n, t in zip(counts, found_tables, strict=True)])
    symbols, position = np.zeros(len(table_of), np.int64), 0
    slots = np.zeros((groups, 2**14), np.int64)
    f, c = np.zeros((2, groups, 4097), np.int64)
    for number, (_, each) in enumerate(found_tables):
        if each:
            slots[number] = np.repeat(np.arange(len(each)), each)
            f[number, : len(each)], c[number, : len(each)] = each, np.cumsum(each) - each
    for start in range(0, len(symbols), lanes):
        row = table_of[start : start + lanes]
        own = x[: len(row)]
        s = own % 2**14
        symbols[start : start + lanes] = found = slots[row, s]
        own = f[row, found] * (own // 2**14) + s - c[row, found]
        (short,) = (own < 2**16).nonzero()
        own[short] = 2**16 * own[short] + words[position : position + len(short)]
        position += len(short)
        x[: len(row)] = own
    assert position == len(words)
    assert (x == 2**16).all()
    return integers(counts, found_tables, symbols, escapes)


def integers(counts: list[int], found_tables: list, symbols: np.ndarray, escapes: Bits) -> list[np.ndarray]:
    result, start = [], 0
    for count, (low, each) in zip(counts, found_tables, strict=True):
        if not each:
            result.append(np.full(count, low))
            continue
        own = symbols[start : start + count]
        values = own + low
        for place in (own == len(each) - 1).nonzero()[0]:
            values[place] = escapes.signed()
        result.append(values)
        start += count
    assert len(escapes.left) < 8
    return result
