"""Image files of every kind that users have: depths, palettes, transparency, orientation, names."""

import os
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data import load_dataset
from pipeline.data.image_files import SUFFIXES, decode, header_size
from pipeline.data.memory import MemorySplit
from pipeline.data.streaming import FolderSplit
from pipeline.errors import DataError
from tests.pipeline.data.deep_images import deep_png, deep_tiff

CPU = torch.device("cpu")


def pixels(path):
    return np.asarray(decode(str(path)))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bits_are_divided_by_257(tmp_path, ending):
    values = np.array([[0, 128, 129, 257], [32768, 65278, 65406, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{ending}")
    expected = np.array([[0, 0, 1, 1], [128, 254, 254, 255]])
    assert np.array_equal(pixels(tmp_path / f"deep.{ending}"), np.repeat(expected[..., None], 3, axis=2))


def test_big_endian_16_bits(tmp_path):
    values = np.array([[257 * 7, 257 * 200]], ">u2")
    Image.frombytes("I;16B", (2, 1), values.tobytes()).save(tmp_path / "deep.tif")
    assert pixels(tmp_path / "deep.tif")[0, :, 0].tolist() == [7, 200]


COLOURS = np.random.default_rng(0).integers(0, 256, (4, 5, 3))


@pytest.mark.parametrize(
    "content",
    [
        deep_png(257 * COLOURS),
        deep_tiff(257 * COLOURS, planes=False, compressed=False),
        deep_tiff(257 * COLOURS, planes=True, compressed=True),
    ],
    ids=["png", "tiff", "planes"],
)
def test_colours_of_16_bits_are_those_of_8_bits(tmp_path, content):
    (tmp_path / "deep.tif").write_bytes(content)
    assert np.array_equal(pixels(tmp_path / "deep.tif"), COLOURS)


def test_planes_of_16_bits_that_pillow_misreads_are_refused(tmp_path):
    (tmp_path / "deep.tif").write_bytes(deep_tiff(257 * COLOURS, planes=True, compressed=False))
    for read in (decode, header_size):
        with pytest.raises(DataError, match=r"deep\.tif.*uncompressed TIFF.*16 bits.*allowed"):
            read(str(tmp_path / "deep.tif"))


@pytest.mark.parametrize("values", [[[0.0, 0.5]], [[0, 70_000]], [[0, 200]]])
def test_floats_and_32_bits_are_refused_by_name(tmp_path, values):
    Image.fromarray(np.array(values, np.float32 if isinstance(values[0][1], float) else np.int32)).save(
        tmp_path / "odd.tif"
    )
    for read in (decode, header_size):
        with pytest.raises(DataError, match=r"odd\.tif.*(float|32 bits).*8 bits.*16 bits"):
            read(str(tmp_path / "odd.tif"))


def test_a_missing_image_is_not_called_damaged(tmp_path):
    for read in (decode, header_size):
        with pytest.raises(DataError, match=r"gone\.png.*No such file.*allowed"):
            read(str(tmp_path / "gone.png"))


def test_an_image_of_too_many_pixels_is_not_called_damaged(tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    for read in (decode, header_size):
        with pytest.raises(DataError, match=r"huge\.png has too many pixels.*81.*80.*smaller"):
            read(str(tmp_path / "huge.png"))


def palette(folder, name, **transparency):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 200, 30, 40, 10, 220, 30])
    image.putpixel((0, 0), 2)
    image.save(folder / name, **transparency)
    return folder / name


@pytest.mark.parametrize("transparency", [{}, {"transparency": 1}, {"transparency": bytes([255, 0, 128])}])
def test_palettes_keep_their_colours_without_a_warning(tmp_path, transparency):
    path = palette(tmp_path, "flat.png", **transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pixels(path)
    assert found[0, 0].tolist() == [10, 220, 30]
    assert found[1, 2].tolist() == [200, 30, 40]


def test_transparency_is_dropped(tmp_path):
    Image.new("RGBA", (2, 2), (9, 90, 180, 0)).save(tmp_path / "clear.png")
    assert pixels(tmp_path / "clear.png")[0, 0].tolist() == [9, 90, 180]
    Image.new("LA", (2, 2), (77, 10)).save(tmp_path / "grey.png")
    assert pixels(tmp_path / "grey.png")[1, 1].tolist() == [77, 77, 77]


@pytest.mark.parametrize(("mode", "colour", "ending"), [("CMYK", (0, 255, 255, 0), "tif"), ("1", 1, "png")])
def test_other_modes_become_rgb(tmp_path, mode, colour, ending):
    Image.new(mode, (2, 2), colour).save(tmp_path / f"x.{ending}")
    assert pixels(tmp_path / f"x.{ending}")[0, 0].tolist() == ([255, 0, 0] if mode == "CMYK" else [255, 255, 255])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, orientation):
    """The upright image is 8 wide and 5 high, with a bright top left quarter."""
    upright = np.zeros((5, 8, 3), np.uint8)
    upright[:2, :4] = 250
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
    assert header_size(str(tmp_path / "turned.png")) == (5, 8)
    assert np.array_equal(pixels(tmp_path / "turned.png"), upright)


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "moving.gif")[0, 0].argmax() == 0


def make(root, ending="png", names=("cat", "dog"), halves=("train", "val"), size=(12, 10), save=None):
    for blue, half in enumerate(halves):
        for place, name in enumerate(names):
            folder = root / half / name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(3):
                image = Image.new("RGB", size, (60 + 90 * place, 20 * number, 10 + blue))
                with (folder / f"{number}.{ending}").open("wb") as file:
                    image.save(file, save or "png")
    return str(root)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("jfif", "jpeg"), ("gif", "gif"), ("webp", "webp"), ("PNG", "png"), ("JPeG", "jpeg"), ("pbm", "ppm")],
)
def test_endings_of_every_kind_are_found(tmp_path, ending, kind):
    assert f".{ending.lower()}" in SUFFIXES
    assert len(load_dataset(make(tmp_path / "pets", ending, save=kind)).train) == 6


@pytest.mark.parametrize(
    ("halves", "used", "unused"),
    [
        (("train", "valid"), "valid", None),
        (("train", "validation"), "validation", None),
        (("Training", "Testing"), "Testing", None),
        (("train", "val", "test"), "val", "test"),
        (("train", "test", "valid"), "valid", "test"),
    ],
)
def test_names_of_the_halves(tmp_path, halves, used, unused):
    root = tmp_path / "pets"
    make(root, halves=halves)
    for name in ("cat", "dog"):
        for number in range(1, 3):
            (root / used / name / f"{number}.png").unlink()
    data = load_dataset(str(root))
    assert (len(data.train), len(data.test)) == (6, 2)
    assert [unused in note and used in note for note in data.notes] == ([True] if unused else [])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse these names")
@pytest.mark.parametrize(("size", "kind"), [((12, 10), MemorySplit), ((200, 120), FolderSplit)])
def test_names_that_are_not_utf8(tmp_path, size, kind):
    strange = os.fsdecode(b"caf\xe9")
    data = load_dataset(make(tmp_path / strange, names=(strange, "dog"), size=size), workers=0)
    assert isinstance(data.train, kind)
    assert data.class_names == ("caf\\xe9", "dog")
    assert "caf" in data.name.encode("utf-8").decode()
    assert {len(data.train.digest), len(data.test.digest)} == {64}
    assert sorted(torch.cat([labels for _, labels in data.train.batches(4, device=CPU)]).tolist()) == [0] * 3 + [1] * 3
    (tmp_path / strange / "val" / strange / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0\.png") as raised:
        load_dataset(str(tmp_path / strange), workers=0)
    assert str(raised.value).encode("utf-8")


@pytest.mark.parametrize(("count", "limit"), [(9, None), (9, 1), (0, None)])
def test_a_thumbnail_does_not_decide_the_size(tmp_path, count, limit):
    root = tmp_path / "pets"
    make(root, size=(40, 40))
    names = sorted((root / "train").rglob("*.png"))[:1]
    for path in names if count else []:
        Image.open(path).resize((5, 6)).save(path)
    data = load_dataset(str(root), limit_train=limit)
    assert data.image_size == (40, 40)
    assert [("40x40" in note, "--image-size" in note) for note in data.notes] == ([(True, True)] if count else [])


def test_one_large_image_among_small_ones_does_not_decide(tmp_path):
    root = tmp_path / "pets"
    make(root)
    Image.new("RGB", (640, 480)).save(root / "train" / "cat" / "0.png")
    data = load_dataset(str(root))
    assert isinstance(data.train, MemorySplit)
    assert data.image_size == (10, 12)


@pytest.mark.parametrize("size", [(24, 20), (150, 130)])
def test_image_size_overrides_the_folder(tmp_path, size):
    data = load_dataset(make(tmp_path / "pets", size=size), image_size=(16, 32), workers=0)
    assert data.image_size == (16, 32)
    for options in ({}, {"seed": 1, "augment": True}):
        assert next(data.train.batches(4, device=CPU, **options))[0].shape == (4, 3, 16, 32)
    other = load_dataset(str(tmp_path / "pets"), image_size=(16, 16), workers=0)
    assert data.train.digest != other.train.digest


def image_folder(root):
    for half in ("train", "test"):
        for name in ("a", "b"):
            (root / half / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(root / half / name / f"{number}.png")
    return root / "train" / "a"


@pytest.mark.parametrize("target", [".", "..", "../../.."])
def test_a_link_to_a_folder_that_holds_it_is_refused(tmp_path, target):
    (image_folder(tmp_path) / "again").symlink_to(target)
    with pytest.raises(DataError, match=r"again.*link.*holds"):
        load_dataset(str(tmp_path))


def test_links_to_other_folders_count(tmp_path):
    folder = image_folder(tmp_path / "data")
    (tmp_path / "more").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "more" / "x.png")
    (folder / "linked").symlink_to(tmp_path / "more")
    assert len(load_dataset(str(tmp_path / "data")).train) == 5


def test_a_link_that_leads_nowhere_is_no_missing_class(tmp_path):
    half = image_folder(tmp_path).parent
    (half / ".#hidden").symlink_to("/nowhere")
    assert load_dataset(str(tmp_path)).classes == 2
    (half / "c").symlink_to(tmp_path / "not mounted")
    with pytest.raises(DataError, match=r"\bc is a link.*nowhere.*class folders"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file_is_refused(tmp_path, linked):
    folder = image_folder(tmp_path / "data")
    os.mkfifo(tmp_path / "pipe" if linked else folder / "pipe.png")
    if linked:
        (folder / "pipe.png").symlink_to(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"pipe\.png.*regular file"):
        load_dataset(str(tmp_path / "data"))


def test_a_link_to_itself_is_no_image(tmp_path):
    folder = image_folder(tmp_path)
    (folder / "loop").symlink_to("loop")
    assert len(load_dataset(str(tmp_path)).train) == 4
    (folder / "loop.png").symlink_to("loop.png")
    with pytest.raises(DataError, match=r"loop\.png.*image"):
        load_dataset(str(tmp_path))


def test_a_folder_that_fails_while_it_is_listed_is_refused(tmp_path, monkeypatch):
    image_folder(tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.data.image_files.os", SimpleNamespace(**vars(os) | {"scandir": refuse}))
    with pytest.raises(DataError, match=r"train.a.*Permission denied"):
        load_dataset(str(tmp_path))
