"""Write and read varints, and single bits: the lowest bit of a byte first, the last byte filled up with zeros."""

from __future__ import annotations

from basis.errors import CompressionError

_LENGTH_BITS = 6


class BitWriter:
    """Collects unsigned integers of any number of bits."""

    def __init__(self) -> None:
        self._bytes, self._value, self._count = bytearray(), 0, 0  # whole bytes, and the bits after them

    def __len__(self) -> int:
        """Return the number of bits."""
        return 8 * len(self._bytes) + self._count

    def write(self, value: int, bits: int) -> None:
        """Append an integer of ``bits`` bits, lowest bit first."""
        self._value |= value << self._count
        self._count += bits
        whole, self._count = divmod(self._count, 8)
        self._bytes += (self._value & ((1 << 8 * whole) - 1)).to_bytes(whole, "little")
        self._value >>= 8 * whole

    def write_integer(self, value: int) -> None:
        """Append a signed integer: 6 bits with the length of its zigzag code, then the code without its highest bit.

        The zigzag code of n is 2n + 1 for n >= 0 and -2n otherwise, so that its length is 1 or more.
        """
        code = _positive_code(value)
        length = code.bit_length() - 1
        self.write(length, _LENGTH_BITS)
        self.write(code & ((1 << length) - 1), length)

    def to_bytes(self) -> bytes:
        """Return the bits as bytes."""
        return bytes(self._bytes) + self._value.to_bytes((self._count + 7) // 8, "little")


def integer_bits(value: int) -> int:
    """Return the number of bits that ``BitWriter.write_integer`` writes."""
    return _LENGTH_BITS + _positive_code(value).bit_length() - 1


def _positive_code(value: int) -> int:
    """Return the zigzag code of an integer, plus 1."""
    return (2 * value if value >= 0 else -2 * value - 1) + 1


class BitReader:
    """Reads what ``BitWriter`` wrote.

    Args:
        data: The bytes.

    Raises:
        CompressionError: By its methods, if there are not enough bits.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def read(self, bits: int) -> int:
        """Read an unsigned integer of ``bits`` bits.

        Raises:
            CompressionError: Fewer bits are left.
        """
        start, end = self._position, self._position + bits
        if end > 8 * len(self._data):
            raise CompressionError(
                f"an entropy-coded stream ends {end - 8 * len(self._data)} bits early; allowed: a whole one"
            )
        self._position = end
        return int.from_bytes(self._data[start // 8 : (end + 7) // 8], "little") >> start % 8 & ((1 << bits) - 1)

    def read_integer(self) -> int:
        """Read what ``BitWriter.write_integer`` wrote.

        Raises:
            CompressionError: The integer is outside the range of int32.
        """
        length = self.read(_LENGTH_BITS)
        code = (1 << length | self.read(length)) - 1
        value = code // 2 if code % 2 == 0 else -(code + 1) // 2
        if not -(2**31) <= value < 2**31:
            raise CompressionError(f"an entropy-coded stream holds the integer {value}; allowed: those of 32 bits")
        return value

    def finish(self) -> None:
        """Check that only the zeros of the last byte are left.

        Raises:
            CompressionError: Other bits are left.
        """
        left = 8 * len(self._data) - self._position
        if left >= 8 or self.read(left):
            raise CompressionError("an entropy-coded stream has bits after its end; allowed: zeros up to the next byte")


def varint(number: int) -> bytes:
    """Return a number of 0 or more as bytes: 7 bits in each, lowest first; the highest bit is 1 in all but the last."""
    groups = [number & 127]
    while number := number >> 7:
        groups[-1] |= 128
        groups.append(number & 127)
    return bytes(groups)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number and the position after it.

    Raises:
        CompressionError: The data end in the number, or it has more than 9 bytes.
    """
    number = shift = 0
    while position < len(data) and shift < 63:
        byte = data[position]
        number, position, shift = number | (byte & 127) << shift, position + 1, shift + 7
        if byte < 128:
            return number, position
    raise CompressionError("an entropy-coded stream ends in a number, or has one of too many bytes; allowed: 9 bytes")
