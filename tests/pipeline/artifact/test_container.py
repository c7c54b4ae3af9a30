"""The container: its layout to the byte, and each claim of its header that is refused."""

import json
import zlib
from io import BytesIO

import pytest
import torch

from basis.errors import CompressionError
from pipeline.artifact.codec import decode
from pipeline.artifact.container import Contents, join, split
from pipeline.artifact.header import MOST_TABLE_BYTES, Table, pack_table, read_header, read_table

BYTES = torch.tensor([1, 2, 3], dtype=torch.uint8)


def test_the_layout_byte_for_byte():
    content = join("{}", {"b": BYTES, "a": torch.tensor([1.0])})
    header = (
        b'{"__metadata__":{"seriesquant":"{}"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"U8","shape":[3],"data_offsets":[4,7]},"check":{"dtype":"U8","shape":[4],"data_offsets":[7,11]}}'
    )
    header += b" " * (-len(header) % 8)
    before = len(header).to_bytes(8, "little") + header + bytes([0, 0, 0x80, 0x3F, 1, 2, 3])
    assert content == before + zlib.crc32(before).to_bytes(4, "little")
    contents = split(BytesIO(content))
    assert (contents.text, contents.header_bytes, contents.check_bytes) == ("{}", 8 + len(header), 4)
    assert {name: values.tolist() for name, values in contents.sections.items()} == {"a": [1.0], "b": [1, 2, 3]}


def test_the_checksum_is_the_one_that_the_page_names():
    assert zlib.crc32(b"123456789") == 0xCBF43926


def written(header: object, data: bytes) -> BytesIO:
    """A file of any header whatever, with a right checksum."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = len(encoded).to_bytes(8, "little") + encoded + data
    return BytesIO(content + zlib.crc32(content).to_bytes(4, "little"))


def section(start: int, end: int, dtype: str = "U8", count: int | None = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start if count is None else count], "data_offsets": [start, end]}


META = {"__metadata__": {"seriesquant": "{}"}}
NOT_OURS = "its header is not that of an artifact; allowed: JSON with 'seriesquant'"


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b"{]", b"", NOT_OURS),
        (b"[" * 100_000, b"", NOT_OURS),
        ([], b"", NOT_OURS),
        ({"check": section(0, 4)}, b"", NOT_OURS),
        ({"__metadata__": {"other": "{}"}, "check": section(0, 4)}, b"", NOT_OURS),
        ({**META, "check": {"dtype": "U8"}}, b"", NOT_OURS),
        ({**META, "check": section(0, 4, "U9")}, b"", NOT_OURS),
        ({**META, "check": section(0, 4, "U8", 5)}, b"", NOT_OURS),
        ({**META, "check": section(0, 4, "F32", 2)}, b"", NOT_OURS),
        ({**META, "a": section(0, -4), "check": section(-4, 0)}, b"", NOT_OURS),
        ({**META, "check": {**section(0, 4), "more": 1}}, b"", NOT_OURS),
        ({"__metadata__": {"seriesquant": 1}, "check": section(0, 4)}, b"", "is no text; allowed: JSON text"),
        ({**META, "a": section(0, 2), "check": section(1, 5)}, b"a", "sections overlap, leave gaps"),
        ({**META, "a": section(0, 1), "check": section(2, 6)}, b"ab", "sections overlap, leave gaps"),
        ({**META, "check": section(4, 8), "a": section(0, 4)}, b"abcd", "sections overlap, leave gaps"),
        ({**META, "check": section(0, 2**40)}, b"", r"claims 1099511627776 bytes of data, but it has 4;"),
        ({**META, "check": section(0, 4)}, b"abc", "claims 4 bytes of data, but it has 7; allowed: the same"),
        (META, b"", "claims 0 bytes of data, but it has 4"),
        ({**META, "a": section(0, 4)}, b"", "its last section is not 'check'; allowed: a checksum of 4 bytes"),
        ({**META, "check": section(0, 5)}, b"a", "its last section is not 'check'"),
    ],
)
def test_a_header_that_claims_what_is_not_so_is_refused(header, data, words):
    with pytest.raises(CompressionError, match=words):
        split(written(header, data))


@pytest.mark.parametrize("content", [b"", b"abc", bytes(8), (2**24 + 1).to_bytes(8, "little") + bytes(2**24 + 100)])
def test_a_header_beyond_the_file_or_its_bound_is_refused(content):
    with pytest.raises(CompressionError, match=r"claims a header of .*; allowed: "):
        split(BytesIO(content))


def test_a_wrong_checksum_is_refused():
    content = bytearray(join("{}", {"a": BYTES}))
    content[-1] ^= 1
    with pytest.raises(CompressionError, match="checksum; allowed: "):
        split(BytesIO(content))


@pytest.mark.parametrize(
    ("compressed", "words"),
    [
        (b"no zlib", "its table cannot be decompressed; allowed: one zlib stream"),
        (zlib.compress(b"{}")[:-3], "its table is no zlib stream of at most"),
        (zlib.compress(b"{}") + b"x", "its table is no zlib stream of at most"),
        (zlib.compress(b" " * (MOST_TABLE_BYTES + 1)), "its table is no zlib stream of at most"),
        (zlib.compress(b"{"), "its table is not valid: it: .*; allowed: the fields of format 2"),
        (zlib.compress(b'{"layers": 3}'), "its table is not valid: layers: "),
        (zlib.compress(b"\xff"), "its table is not valid"),
    ],
)
def test_a_table_that_is_none_is_refused(compressed, words):
    with pytest.raises(CompressionError, match=words):
        read_table(compressed)


def test_a_table_comes_back():
    assert read_table(pack_table(Table())) == Table()


def test_a_file_without_a_table_is_refused():
    with pytest.raises(CompressionError, match="it has no section 'table'; allowed: one"):
        decode(Contents("{}", {"a": BYTES}, 8))


@pytest.mark.parametrize("text", ["", "[]", '"x"', "{}", '{"format_version": 2}', '{"format_version": true}', "\0"])
def test_a_header_that_is_none_is_refused(text):
    with pytest.raises(CompressionError, match=r"header: .*; allowed: .* format 2"):
        read_header(text)
