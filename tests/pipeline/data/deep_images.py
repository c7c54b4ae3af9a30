"""Files of colour images of 16 bits, which Pillow can read but not write."""

import struct
import zlib

import numpy as np


def deep_png(values: np.ndarray) -> bytes:
    """Return a PNG file of 16 bits for values of 0 to 65535, (H, W, 3)."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def deep_tiff(values: np.ndarray, *, planes: bool, compressed: bool) -> bytes:
    """Return a TIFF file of 16 bits for values of 0 to 65535, (H, W, 3), with or without a plane for each channel."""
    height, width, _ = values.shape
    parts = list(np.moveaxis(values, 2, 0)) if planes else [values]
    strips = [part.astype("<u2").tobytes() for part in parts]
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    arrays: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [16] * 3),
        259: (3, [8 if compressed else 1]),
        262: (3, [2]),
        273: (4, [0] * len(strips)),
        277: (3, [3]),
        278: (4, [height]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [2 if planes else 1]),
    }
    start = 8 + 2 + 12 * len(arrays) + 4
    sizes = {tag: len(numbers) * (2 if kind == 3 else 4) for tag, (kind, numbers) in arrays.items()}
    content = start + sum(size for size in sizes.values() if size > 4)
    arrays[273] = (4, [content + sum(map(len, strips[:place])) for place in range(len(strips))])
    entries, outside = b"", b""
    for tag, (kind, numbers) in arrays.items():
        data = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        entries += struct.pack("<HHI", tag, kind, len(numbers))
        entries += data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", start + len(outside))
        outside += data if len(data) > 4 else b""
    return b"II*\0" + struct.pack("<IH", 8, len(arrays)) + entries + bytes(4) + outside + b"".join(strips)
