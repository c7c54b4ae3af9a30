"""Convert arrays of images to bytes with the channels last, and arrays of labels to class indices.

Images may be of any integer type with values of 0 to 255, or of 0 to 65535, which are divided by 257. Floats of 0 to 1
are multiplied by 255; interpolation may pass these limits by 1e-3. Both halves of a data set have one range.
Labels may be whole numbers from 0 or from 1, one-hot rows, or strings.
"""

from collections import Counter
from collections.abc import Mapping, MutableSequence, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError

Array = npt.NDArray[Any]
_COLOURS: Final = (1, 3)  # numbers of channels that are recognised at any place
_MOST_8_BIT, MOST_16_BIT = 255, 65535
DARK: Final = 2**14
"""Images whose 16-bit values are all below this are dark: cameras may use 12 or 14 of the bits only."""
_MOST_NAMED: Final = 10**5
_BEYOND: Final = 1e-3
_MOST_LABEL: Final = 2**31 - 1
_8_BIT, _16_BIT, _UNIT, _BINARY = "0 to 255", "0 to 65535", "0 to 1", "false and true"
_SCALES: Final = {np.dtype(np.uint8): _8_BIT, np.dtype(np.bool_): _BINARY}
_RANGES: Final = "whole numbers of 0 to 255 or 0 to 65535, or floats of 0 to 1"


class Labels(NamedTuple):
    """The labels of a data set.

    Attributes:
        indices: Indices of each half, int64, (N,).
        names: The names of the classes if the labels are strings.
        classes: Number of classes: of the names, the length of one-hot rows, or the largest index + 1.
    """

    indices: list[Array]
    names: tuple[str, ...] | None
    classes: int


def with_channels_last(array: Array, what: str, notes: MutableSequence[str]) -> Array:
    """Return images as (N, H, W, C).

    Images are taken for channels first, (N, C, H, W), in two cases. The second axis is 1 or 3 and the last is not, or
    the images are square and have fewer channels than rows.

    Args:
        array: Images, (N, H, W), (N, H, W, C) or (N, C, H, W).
        what: The array's name in messages.
        notes: Gets a sentence if axes are moved.

    Raises:
        DataError: The shape is another, or the array is empty.
    """
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.dtype.kind not in "buif":
        raise DataError(
            f"{what} must be images of the shape (N, H, W, C), (N, C, H, W) or (N, H, W), got {array.shape} of "
            f"{array.dtype}"
        )
    if 0 in array.shape:
        raise DataError(f"{what} must hold 1 image or more, got the shape {array.shape}")
    _, second, third, last = array.shape
    if (second in _COLOURS and last not in _COLOURS) or second < third == last:
        notes.append(f"{what} has the channels first, (N, C, H, W): {array.shape} is read as {second} channels")
        return array.transpose(0, 2, 3, 1)
    return array


def image_bytes(images: Mapping[str, Array], what: str, notes: MutableSequence[str]) -> dict[str, Array]:
    """Convert the images of all halves.

    Args:
        images: Half -> images of any numeric type.
        what: Their name in messages.
        notes: Gets a sentence if values are scaled.

    Returns:
        Half -> uint8 of the same shape.

    Raises:
        DataError: The values have no known range, or the halves have two.
    """
    types = " and ".join(sorted({str(array.dtype) for array in images.values()}))
    known = {half: _SCALES[array.dtype] for half, array in images.items() if array.dtype in _SCALES}
    others = [array for half, array in images.items() if half not in known]
    if others:
        least, most = (float(find([find(array) for array in others])) for find in (np.min, np.max))
        if (scale := _scale_of(others, least, most)) is None:
            got = f"got {least:.7g} to {most:.7g} of {types}"
            raise DataError(f"{what} must hold {_RANGES}, before normalization, {got}")
        if scale == _16_BIT:
            note = f"{what} have 16 bits, {least:.0f} to {most:.0f}: they are divided by 257"
            notes.append(note if most >= DARK else f"{note}, so they are dark")
        elif scale == _UNIT:
            notes.append(f"{what} are floats of 0 to 1: they are multiplied by 255 and rounded")
        known |= dict.fromkeys(images.keys() - known.keys(), scale)
    if len(set(known.values())) > 1:
        found = " and ".join(f"{scale} for {half}" for half, scale in sorted(known.items(), reverse=True))
        raise DataError(f"{what} must have one range of values, got {found}, of {types}; allowed: {_RANGES}")
    if set(known.values()) == {_8_BIT} and max(int(array.max()) for array in images.values()) == 1:
        notes.append(f"{what} have no value above 1 of 255, so they are black; bools, and floats of 0 to 1, are scaled")
    return {half: _as_bytes(array, known[half]) for half, array in images.items()}


def _scale_of(arrays: Sequence[Array], least: float, most: float) -> str | None:
    """Return the range of values that arrays share; None if it is unknown."""
    whole = all(array.dtype.kind in "bui" or bool((array == np.rint(array)).all()) for array in arrays)
    floats = any(array.dtype.kind == "f" for array in arrays)
    if whole and least >= 0 and (most > 1 or not floats):  # floats of 0 and 1 are black and white
        return _8_BIT if most <= _MOST_8_BIT else _16_BIT if most <= MOST_16_BIT else None
    return _UNIT if floats and least >= -_BEYOND and most <= 1 + _BEYOND else None


def _as_bytes(array: Array, scale: str) -> Array:
    if scale == _16_BIT:
        return bytes_of_16_bits(array)
    if scale == _UNIT:
        scaled: Array = np.rint(array.astype(np.float32).clip(0, 1) * _MOST_8_BIT).astype(np.uint8)
        return scaled
    found: Array = array.astype(np.uint8, copy=False)
    return found * np.uint8(_MOST_8_BIT) if scale == _BINARY else found


def bytes_of_16_bits(values: Array) -> Array:
    """Divide whole numbers of 0 to 65535 by 257 and round them: uint8 of the same shape."""
    found: Array = ((values.astype(np.int32) + 128) // 257).astype(np.uint8)
    return found


def label_indices(
    arrays: Mapping[str, Array],
    counts: Sequence[int],
    names: tuple[str, ...] | None,
    notes: MutableSequence[str],
    classes: int | None = None,
) -> Labels:
    """Convert the labels of all halves alike to indices of classes from 0.

    Labels from 1 are shifted, unless the number of classes is known and differs from the largest label. One-hot rows
    are never shifted.

    Args:
        arrays: Name in messages -> labels, (N,) or (N, 1), or one-hot rows, (N, classes).
        counts: Number of images of each half.
        names: The file's class names, or None.
        notes: Gets a sentence if labels are shifted, or if labels below the largest have no image.
        classes: Number of classes if it is known, as of a network that is evaluated.

    Raises:
        DataError: The labels are of another shape or type, negative, too large, or not one per image. Or the one-hot
            rows of two halves have different lengths.
    """
    flat = [_flat(array, count, what) for (what, array), count in zip(arrays.items(), counts, strict=True)]
    texts = [what for what, array in zip(arrays, flat, strict=True) if array.dtype.kind in "US"]
    if len(texts) == len(flat):
        return _named(flat, names, list(arrays))
    if texts:
        kinds = " and ".join(f"{array.dtype} in {what}" for what, array in zip(arrays, flat, strict=True))
        raise DataError(f"labels must be strings in both halves or in none, got {kinds}")
    for what, array in zip(arrays, flat, strict=True):
        if array.dtype.kind not in "buif":
            raise DataError(f"{what} must hold whole numbers or strings, got {array.dtype}")
        if array.dtype.kind == "f" and (broken := array[array != np.rint(array)]).size:
            raise DataError(f"{what} must hold whole numbers or strings, got {broken[0]}")
        if not 0 <= array.min() <= array.max() <= _MOST_LABEL:
            raise DataError(f"{what} must hold labels of 0 to {_MOST_LABEL}, got {array.min()} to {array.max()}")
    indices = [array.astype(np.int64) for array in flat]
    least, most = (int(find([find(array) for array in indices])) for find in (np.min, np.max))
    widths = [array.shape[1] for array in arrays.values() if array.ndim == 2 and array.shape[1] > 1]
    if widths and (min(widths) < max(widths) or most >= widths[0]):
        found = " and ".join(f"{array.shape} in {what}" for what, array in arrays.items())
        raise DataError(
            f"one-hot labels must have one length, above all other labels, got {found} with labels to {most}"
        )
    width, known = widths[0] if widths else None, classes if names is None else len(names)
    if width is None and least == 1 and known in (None, most):
        notes.append(f"the labels begin with 1: they are shifted from 1..{most} to 0..{most - 1}")
        indices = [array - 1 for array in indices]
        most -= 1
    used = set(np.concatenate(indices).tolist())
    if known is None and most < _MOST_NAMED and (gaps := sorted(set(range(most + 1)) - used)):
        listed = ", ".join(map(str, gaps[:10])) + (", ..." if len(gaps) > 10 else "")
        notes.append(f"no image has the label {listed}, and the largest label is {most}")
    return Labels(indices, None, width or most + 1)


def _flat(array: Array, count: int, what: str) -> Array:
    if array.ndim == 2 and len(array) == count and array.shape[1] > 1 and array.dtype.kind in "buif":
        if bool(((array == 0) | (array == 1)).all()) and bool((array.sum(axis=1) == 1).all()):
            return np.asarray(array.argmax(axis=1))
        raise DataError(
            f"{what} has the shape {array.shape} without exactly one 1 in each row; allowed: one label for each image"
        )
    if array.shape not in ((count,), (count, 1)):
        raise DataError(f"{what} must have one label for each of the {count} images, got the shape {array.shape}")
    return array.reshape(-1)


def text_of(name: str | bytes) -> str:
    r"""Return a name as text: bytes that are not UTF-8 become ``\xNN``."""
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else name


def _named(flat: Sequence[Array], names: tuple[str, ...] | None, whats: Sequence[str]) -> Labels:
    """Convert strings to their places in the class names, which are sorted unless the file has an order."""
    texts = [list(map(text_of, array.tolist())) for array in flat]
    known = names or tuple(sorted({text for own in texts for text in own}))
    if repeated := [name for name, count in Counter(known).items() if count > 1]:
        raise DataError(f"class_names must be different names for labels that are strings, got {repeated[0]!r} twice")
    places = {name: place for place, name in enumerate(known)}
    for what, own in zip(whats, texts, strict=True):
        if strange := [text for text in own if text not in places]:
            raise DataError(f"{what} has the label {strange[0]!r}; allowed: a label in class_names")
    return Labels([np.array([places[text] for text in own], dtype=np.int64) for own in texts], known, len(known))
