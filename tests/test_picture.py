"""A picture's file: its settings go in and come out, and nothing half-written stays; a sheet of pictures."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor
from PIL import Image, PngImagePlugin

from pixart_fn import picture
from pixart_fn.files import reading
from pixart_fn.picture import read_settings, save_picture, sheet

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".PNG": "PNG"}
SETTINGS = {"prompt": 'a "cute" cat, Größe ✓ \ud800\x1b[31m', "seed": 2**64 - 1, "guidance": 0.1, "solver": None}
GREY = np.full((4, 6, 3), 0.5, np.float32)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_settings_come_back_from_every_format(tmp_path, suffix):
    file = tmp_path / f"cat{suffix}"
    save_picture(GREY, file, **SETTINGS, more=[{"a": 1.5}, []])
    assert read_settings(file) == {**SETTINGS, "more": [{"a": 1.5}, []]}
    assert files(tmp_path) == [file.name]
    with Image.open(file) as saved:
        assert (saved.format, saved.size, saved.mode) == (SUFFIXES[suffix], (6, 4), "RGB")


@given(value=JSON)
def test_whatever_json_says_comes_back(tmp_path_factory, value):
    for suffix in (".png", ".jpg", ".webp"):
        file = tmp_path_factory.getbasetemp() / f"any{suffix}"
        save_picture(GREY, file, value=value)
        assert read_settings(file) == {"value": value}


def test_they_lie_where_the_formats_keep_such_text(tmp_path):
    for name in ("cat.png", "cat.jpg", "cat.webp"):
        save_picture(GREY, tmp_path / name, seed=3)
    png = (tmp_path / "cat.png").read_bytes()
    assert b"iTXtpixart_fn\0\0\0\0\0" + b'{"seed": 3}' in png  # keyword, not compressed, no language, no translation
    for name in ("cat.jpg", "cat.webp"):  # EXIF 2.3, 4.6.5: eight bytes that name the encoding, then the comment
        assert b'ASCII\0\0\0{"pixart_fn": {"seed": 3}}' in (tmp_path / name).read_bytes()


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_itxt("pixart_fn", json.dumps({"prompt": "Größe ✓", "seed": 1}, ensure_ascii=False))
    Image.new("RGB", (4, 4)).save(tmp_path / "old.png", pnginfo=text)
    assert read_settings(tmp_path / "old.png") == {"prompt": "Größe ✓", "seed": 1}


def test_floats_tensors_and_pictures_are_the_same_bytes(tmp_path):
    bytes_ = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 11
    given = (Image.fromarray(bytes_), bytes_ / 255, (bytes_ / 255).astype(np.float32))
    given += (Tensor.from_numpy((bytes_ / 255).astype(np.float32)),)
    for i, one in enumerate(given):
        save_picture(one, tmp_path / f"{i}.png")
        with Image.open(tmp_path / f"{i}.png") as saved:
            np.testing.assert_array_equal(np.asarray(saved), bytes_)
    save_picture(np.array([[[0.0, 0.4 / 255, 0.6 / 255]]]), tmp_path / "rounded.png")
    with Image.open(tmp_path / "rounded.png") as saved:
        assert saved.getpixel((0, 0)) == (0, 0, 1)


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_what_is_lossy_is_near(tmp_path, suffix):
    ramp = np.linspace(0, 1, 32, dtype=np.float32)[:, None, None] * np.ones((1, 32, 3), np.float32)
    save_picture(ramp, tmp_path / f"ramp{suffix}")
    with Image.open(tmp_path / f"ramp{suffix}") as saved:
        assert np.abs(np.asarray(saved) / 255 - ramp).max() < 0.02  # quality 75 gives 0.03 and more


def test_a_missing_folder_is_made_and_a_file_replaced(tmp_path):
    file = tmp_path / "a" / "b" / "cat.png"
    save_picture(GREY, file, seed=1)
    save_picture(GREY, str(file), seed=2)
    assert read_settings(str(file)) == {"seed": 2} and files(file.parent) == ["cat.png"]


WRONG = {
    "ending": (
        GREY,
        "cat.gif",
        {},
        ValueError,
        "a picture's name must end in .png, .jpg, .jpeg or .webp, got 'cat.gif'",
    ),
    "no ending": (GREY, "cat", {}, ValueError, "a picture's name must end in "),
    "a pipe": (GREY, "pipe.png", {}, OSError, "'pipe.png' is a pipe; name a regular file"),
    "a dangling link": (GREY, "link.png", {}, FileNotFoundError, "link.png', a link to '.*', can't be written: "),
    "a folder": (GREY, "folder.png", {}, IsADirectoryError, "'folder.png' is a folder; name a file in it"),
    "in a file": (GREY, "file/x/cat.png", {}, NotADirectoryError, "is not a folder, so 'file/x/cat.png' can't be"),
    "swapped": ("cat.png", GREY, {}, TypeError, "file must be a path, got "),
    "an object": (GREY, "a.png", {"key": np.zeros(2)}, TypeError, "the setting 'key' must be what JSON can say"),
    "nan": (GREY, "a.png", {"x": float("nan")}, TypeError, "the setting 'x' must be what JSON can say .* got nan"),
    "infinite": (GREY, "a.png", {"x": float("inf")}, TypeError, "the setting 'x' must be what JSON can say .* got inf"),
    "a tuple": (GREY, "a.png", {"size": (1, 2)}, TypeError, "the setting 'size' must be what JSON can say"),
    "keys": (GREY, "a.png", {"x": {1: 2}}, TypeError, "the setting 'x' must be what JSON can say"),
    "long": (GREY, "a.jpg", {"x": "a" * 65_500}, ValueError, r"take 655\d\d bytes and a JPEG holds 65533; use .png or"),
    "a list": ([GREY], "a.png", {}, TypeError, "picture must be a picture of PIL or floats"),
    "integers": (np.zeros((2, 2, 3), np.uint8), "a.png", {}, TypeError, "picture must .* got an ndarray of uint8"),
    "a batch": (GREY[None], "a.png", {}, ValueError, r"picture must have the shape \(H, W, 3\), got \(1, 4, 6, 3\)"),
    "channels": (GREY[..., :1], "a.png", {}, ValueError, r"picture must have the shape \(H, W, 3\), got \(4, 6, 1\)"),
    "empty": (GREY[:0], "a.png", {}, ValueError, r"picture must have the shape \(H, W, 3\), got \(0, 6, 3\)"),
    "bright": (GREY * 3, "a.png", {}, ValueError, r"picture must be within \[0, 1\], got 1.5 … 1.5"),
    "dark": (GREY - 1, "a.png", {}, ValueError, r"picture must be within \[0, 1\], got -0.5 … -0.5"),
    "not a number": (GREY * np.nan, "a.png", {}, ValueError, r"picture must be within \[0, 1\], got nan … nan"),
    "alpha": (Image.new("RGBA", (2, 2)), "a.png", {}, ValueError, "picture must be RGB, got mode 'RGBA'; picture.conv"),
    "wide": (Image.new("RGB", (16_384, 1)), "a.webp", {}, ValueError, "a WEBP holds at most 16383 pixels along a side"),
    "tall": (Image.new("RGB", (1, 65_501)), "a.jpg", {}, ValueError, "a JPEG holds at most 65500 pixels along a side"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence_before_anything_is_written(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    Path("file").touch()
    os.mkfifo("pipe.png")
    Path("link.png").symlink_to("none/a.png")
    what, file, settings, error, sentence = WRONG[case]
    with pytest.raises(error, match=sentence) as raised:
        save_picture(what, file, **settings)
    assert len(str(raised.value).splitlines()) == 1
    assert files(tmp_path) == ["file", "folder.png", "link.png", "pipe.png"]


def test_a_picture_that_would_not_be_opened_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "PIXELS", 4 * 6 - 1)
    with pytest.raises(ValueError, match="a PNG holds at most 2147483647 pixels along a side and 23 in all, got 4 x 6"):
        save_picture(GREY, tmp_path / "a.png")
    monkeypatch.setattr(picture, "PIXELS", 4 * 6)
    save_picture(GREY, tmp_path / "a.png")


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda folder, mode: (str(folder), mode) != (str(tmp_path), os.W_OK))
    with pytest.raises(PermissionError, match=r"the folder '.*' can't be written to"):
        save_picture(GREY, tmp_path / "new" / "a.png")
    assert not files(tmp_path)


def test_a_jpeg_keeps_the_edges_of_colours(tmp_path):
    stripes = np.zeros((16, 16, 3), np.float32)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 1  # red and blue, a pixel wide: halved colours would make all purple
    save_picture(stripes, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as saved:
        assert np.abs(np.asarray(saved) / 255 - stripes).max() < 0.1


def test_long_settings_go_where_there_is_room(tmp_path):
    save_picture(GREY, tmp_path / "a.jpg", x="a" * 65_400)
    for name in ("a.png", "a.webp"):
        save_picture(GREY, tmp_path / name, x="a" * 2_000_000)
        assert read_settings(tmp_path / name) == {"x": "a" * 2_000_000}


def test_settings_that_would_not_be_read_again_are_refused(tmp_path):
    with pytest.raises(ValueError, match="and fewer than 64 MiB are read again"):
        save_picture(GREY, tmp_path / "a.png", x="a" * reading.MOST)
    assert not files(tmp_path)


@pytest.mark.parametrize("name", ["a\0.png", "\ud800.png", "new/a\0.png"])
def test_what_no_file_can_be_called_is_one_sentence_early(tmp_path, name):
    with pytest.raises(ValueError, match=r"can't be written: no file's name can hold what it holds$"):
        picture.prepare(tmp_path / name, {})


@pytest.mark.parametrize("failing", ["replace", "save"])
def test_a_write_that_fails_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch, failing):
    file = tmp_path / "cat.png"
    save_picture(GREY, file, seed=1)

    def fail(*_, **__):
        raise OSError("no space left on the disk")

    monkeypatch.setattr(*{"replace": (os, "replace"), "save": (Image.Image, "save")}[failing], fail)
    with pytest.raises(OSError, match="no space left"):
        save_picture(GREY, file, seed=2)
    assert files(tmp_path) == ["cat.png"] and read_settings(file) == {"seed": 1}


def with_text(content, **options):
    text = PngImagePlugin.PngInfo()
    text.add_text("pixart_fn", content, **options)
    return lambda file: Image.new("RGB", (4, 4)).save(file, pnginfo=text)


def bomb(file):
    """A PNG of 100 000 x 100 000 pixels, by hand: its header and no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT", b"IEND"]
    body = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))


def of_another_program(file):
    exif = Image.Exif()
    exif[0x8769] = {0x9286: b"ASCII\0\0\0a cat, steps: 20"}
    Image.new("RGB", (4, 4)).save(file, exif=exif)


SILENT = "doesn't say how it was drawn; pixart-fn generate and save_picture write that"
BROKEN = "is not a whole PNG, JPEG or WebP picture"
UNREADABLE = {
    "plain.png": (lambda file: Image.new("RGB", (4, 4)).save(file), SILENT),
    "other.jpg": (of_another_program, SILENT),
    "list.png": (with_text("[1]"), SILENT),
    "no json.png": (with_text("{"), SILENT),
    "nested.png": (with_text("[" * 200_000), SILENT),
    "inflated.png": (with_text(" " * 5_000_000, zip=True), "has a text that unpacks to more than Pillow reads"),
    "bomb.png": (bomb, "claims more than 178956970 pixels, which Pillow doesn't open"),
    "text.png": (lambda file: file.write_text("no picture"), BROKEN),
    "empty.webp": (lambda file: file.touch(), BROKEN),
    "picture.gif": (lambda file: Image.new("RGB", (4, 4)).save(file), BROKEN),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_without_settings_is_one_sentence(tmp_path, name):
    make, sentence = UNREADABLE[name]
    make(tmp_path / name)
    with pytest.raises(ValueError) as raised:
        read_settings(tmp_path / name)
    assert str(raised.value) == f"{str(tmp_path / name)!r} {sentence}"


def test_the_pixels_arent_decoded_for_the_settings(tmp_path, monkeypatch):
    """A small file may have a hundred million of them."""
    save_picture(GREY, tmp_path / "with.png", seed=1)
    Image.new("RGB", (4, 4)).save(tmp_path / "without.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert read_settings(tmp_path / "with.png") == {"seed": 1}
    with pytest.raises(ValueError, match=SILENT):
        read_settings(tmp_path / "without.png")


def test_a_picture_over_the_bound_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "cat.png", "wb") as file:
        file.truncate(picture.LARGEST + 1)  # which takes no space on the disk
    with pytest.raises(ValueError, match=r"cat\.png' holds more than 1024 MiB, which is no picture that is read here"):
        read_settings(tmp_path / "cat.png")


def test_no_file_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file '.*none\.png'"):
        read_settings(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):
        read_settings(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_damaged_file_is_a_sentence_or_its_settings(tmp_path, suffix):
    file = tmp_path / f"cat{suffix}"
    save_picture(GREY, file, seed=1)
    whole, random = file.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(0, len(damaged), 2)] = random.integers(0, 256, 2)
        file.write_bytes(damaged.tobytes()[: random.integers(1, 2 * len(whole))])
        try:
            assert isinstance(read_settings(file), dict)
        except ValueError as error:
            assert str(error).startswith(repr(str(file)))


def test_a_text_after_the_pixels_is_found(tmp_path):
    save_picture(GREY, tmp_path / "cat.png", seed=1)
    whole = (tmp_path / "cat.png").read_bytes()
    start = whole.index(b"iTXt") - 4
    end = whole.index(b"IDAT") - 4
    (tmp_path / "cat.png").write_bytes(whole[:start] + whole[end:-12] + whole[start:end] + whole[-12:])
    assert read_settings(tmp_path / "cat.png") == {"seed": 1}


# --- sheet ------------------------------------------------------------------------------------------------------------


def test_a_sheet_puts_pictures_in_rows_on_white():
    colours = [(i, 2 * i, 3 * i) for i in range(5)]
    made = sheet([Image.new("RGB", (2, 3), colour) for colour in colours])
    assert made.size == (3 * 2, 2 * 3)
    cells = [made.crop((x, y, x + 2, y + 3)).getextrema() for y in (0, 3) for x in (0, 2, 4)]
    assert cells == [tuple((c, c) for c in colour) for colour in [*colours, (255, 255, 255)]]


@pytest.mark.parametrize(
    ("n", "columns", "size"),
    [(1, None, (6, 4)), (2, None, (12, 4)), (4, None, (12, 8)), (9, None, (18, 12)), (3, 1, (6, 12)), (2, 5, (30, 4))],
)
def test_a_sheet_is_as_square_as_it_can_be_or_as_asked(n, columns, size):
    assert sheet([GREY] * n, columns).size == size


@pytest.mark.parametrize(
    ("pictures", "columns", "error", "sentence"),
    [
        ([], None, ValueError, "a sheet takes pictures of one size, got none"),
        ([GREY, GREY[:2]], None, ValueError, "a sheet takes pictures of one size, got 2 x 6, 4 x 6"),
        ([GREY], 0, ValueError, "columns must be "),
        (["cat.png"], None, TypeError, "picture must be a picture of PIL or floats"),
    ],
)
def test_a_sheet_of_something_else_is_one_sentence(pictures, columns, error, sentence):
    with pytest.raises(error, match=sentence):
        sheet(pictures, columns)
