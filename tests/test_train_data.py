"""Where pictures come from, and what is done to one before it is encoded."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import authors as files
from PIL import Image

from pixart_fn.train.data import pictures, sources

RED = (200, 30, 40)


def encoded(picture: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def square(colour=RED, size=(6, 4)) -> Image.Image:
    """A picture of (width, height) whose upper left quarter is black."""
    picture = Image.new("RGB", size, colour)
    picture.paste((0, 0, 0), (0, 0, size[0] // 2, size[1] // 2))
    return picture


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def listed(source: sources.Source) -> dict[str, str]:
    return {entry.name: entry.caption for entry in source.entries}


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_captions_beside_its_pictures(tmp_path):
    picture = encoded(square())
    for name, caption in {"b.png": "two", "a.PNG": "one", "deep/er/c.webp": " three\n", "deep/d.jpg": ""}.items():
        put(tmp_path / name, picture)
        put((tmp_path / name).with_suffix(".txt"), caption)
    put(tmp_path / "e.png", picture)
    put(tmp_path / "f.png", picture)
    put(tmp_path / "f.txt", b"\xff\xfe")
    put(tmp_path / ".hidden" / "g.png", picture)
    put(tmp_path / "notes.txt", "no picture")
    put(tmp_path / "b.txt", b"\xef\xbb\xbftwo")  # as Windows writes it
    source = sources.open(tmp_path)
    assert listed(source) == {"a.PNG": "one", "b.png": "two", "deep/d.jpg": "", "deep/er/c.webp": "three"}
    assert {entry.read() for entry in source.entries} == {picture}
    assert [tuple(each) for each in source.skipped] == [
        ("e.png", "it has no caption: no e.txt beside it and no line of metadata"),
        ("f.png", "its caption can't be read (it isn't UTF-8)"),
    ]
    assert repr(source) == f"Source(imagefolder {str(tmp_path)!r}: 4 pictures, 2 skipped)"


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_a_folder_with_metadata(tmp_path, table):
    for name in ("a.png", "train/b.png", "train/c.png", "d.png"):
        put(tmp_path / name, encoded(square()))
    put(tmp_path / "d.txt", "beside it")
    rows = [("a.png", 'one, "first"'), ("train/b.png", "two"), ("gone.png", "lost")]
    if table.endswith("jsonl"):
        content = "\n".join(json.dumps({"file_name": name, "text": text, "n": 1}) for name, text in rows) + "\n\n"
    else:
        content = "n,file_name,text\r\n" + "".join(f'1,{a},"{b.replace(chr(34), chr(34) * 2)}"\r\n' for a, b in rows)
    put(tmp_path / table, content)
    put(tmp_path / "train" / table, content.replace("a.png", "c.png").replace("train/b.png", "gone2.png"))
    source = sources.open(tmp_path)
    wanted = {"a.png": 'one, "first"', "d.png": "beside it", "train/b.png": "two", "train/c.png": 'one, "first"'}
    assert listed(source) == wanted
    assert [tuple(each) for each in source.skipped] == [
        (name, f"there is no file {name}") for name in ("gone.png", "train/gone.png", "train/gone2.png")
    ]


@pytest.mark.parametrize(
    ("table", "content", "sentence"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "caption": "x"}', r"line 1 of .*jsonl has no 'text', only file_n"),
        ("metadata.jsonl", '\n{"text": "x"}', r"line 2 of .*metadata\.jsonl has no 'file_name', only text"),
        ("metadata.jsonl", '{"file_name": "a.png", "text": 3}', r"text in line 1 of .* must be a text, got an int"),
        ("metadata.jsonl", "{", r"line 1 of .*metadata\.jsonl isn't valid JSON \(Expecting"),
        ("metadata.jsonl", "[1]", r"line 1 of .*metadata\.jsonl must be a JSON object, got a list"),
        ("metadata.jsonl", '{"file_name": "../a.png", "text": ""}', r"file_name in line 1 .* or below, got '\.\./"),
        ("metadata.jsonl", '{"file_name": "/a.png", "text": ""}', r"file_name in line 1 of .* or below, got '/a"),
        ("metadata.csv", "file_name,text\na.png\n", r"line 2 of .*csv has another number of columns than the first"),
        ("metadata.csv", "file_name,text\na.png,b,c\n", r"line 2 of .*csv has another number of columns"),
        ("metadata.csv", "name,text\na.png,b\n", r"line 2 of .*csv has no 'file_name', only name, text"),
        ("metadata.csv", b"file_name,text\n\xff,b\n", r"metadata\.csv isn't valid CSV in UTF-8 \("),
    ],
)  # fmt: skip
def test_a_mistake_in_metadata_is_one_sentence_with_its_place(tmp_path, table, content, sentence):
    put(tmp_path / "a.png", encoded(square()))
    put(tmp_path / table, content)
    with pytest.raises(ValueError, match=sentence) as raised:
        sources.open(tmp_path)
    assert "\n" not in str(raised.value)


def test_the_column_of_the_captions_can_be_named(tmp_path):
    put(tmp_path / "a.png", encoded(square()))
    put(tmp_path / "metadata.jsonl", '{"file_name": "a.png", "text": "no", "said": "yes"}')
    assert listed(sources.open(tmp_path, column="said")) == {"a.png": "yes"}
    put(tmp_path / "metadata.csv", "")
    with pytest.raises(ValueError, match=r"holds both metadata\.jsonl and metadata\.csv; keep one"):
        sources.open(tmp_path)


def test_pictures_without_a_caption_may_share_one(tmp_path):
    picture = encoded(square())
    for name in ("a.png", "b.png"):
        put(tmp_path / name, picture)
    put(tmp_path / "b.txt", "its own")
    source = sources.open(tmp_path, caption="a photo of sks dog")
    assert listed(source) == {"a.png": "a photo of sks dog", "b.png": "its own"} and not source.skipped
    tar(tmp_path / "a.tar", {"a.png": picture, "b.png": picture, "b.txt": "its own", "c.png": picture, "c.json": "1"})
    source = sources.open(tmp_path / "a.tar", caption="a dog")
    assert listed(source) == {"a.tar/a.png": "a dog", "a.tar/b.png": "its own"}
    assert [each.name for each in source.skipped] == ["a.tar/c.png"], "a caption that can't be read is no missing one"


def test_links_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path / "elsewhere" / "a.png", encoded(square()))
    put(tmp_path / "elsewhere" / "a.txt", "one")
    (tmp_path / "pictures").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "pictures" / "link")
    os.symlink(tmp_path / "pictures", tmp_path / "elsewhere" / "back")
    assert listed(sources.open(tmp_path / "pictures")) == {"link/a.png": "one"}


def test_a_name_that_is_no_text_is_skipped(tmp_path):
    for name in (b"\xff.png", b"a.png"):
        (Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))).write_bytes(encoded(square()))
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name[:-3] + b"txt"))).write_text("one")
    source = sources.open(tmp_path)
    assert listed(source) == {"a.png": "one"} and [tuple(e) for e in source.skipped] == [
        ("?.png", "its name isn't UTF-8")
    ]


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no picture with a caption$"):
        sources.open(tmp_path)
    put(tmp_path / "a.png", b"")
    with pytest.raises(FileNotFoundError, match=r"holds no picture with a caption \(a\.png: it has no caption: no a"):
        sources.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder or file"):
        sources.open(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="kind must be one of 'imagefolder', 'webdataset', 'authors', got 'tar'"):
        sources.open(tmp_path, kind="tar")


# --- tars -------------------------------------------------------------------------------------------------------------


def tar(path: Path, members: dict[str, bytes | str], **options) -> None:
    with tarfile.open(path, "w", **options) as file:
        for name, content in members.items():
            content = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def test_webdataset_tars(tmp_path):
    one, two = encoded(square()), encoded(square((0, 0, 255)), "JPEG")
    long = "x" * 200 + "/" + "y" * 90
    tar(
        tmp_path / "1.tar",
        {
            "a.png": one, "a.txt": "one", "a.json": '{"caption": "not this"}', "./deep/b.JPG": two,
            "deep/b.json": '{"caption": " two "}', "c.png": one, "d.json": '{"caption": "no picture"}',
            "e.png": one, "e.json": "[]", f"{long}.jpeg": two, f"{long}.txt": "long",
        },
        format=tarfile.PAX_FORMAT,
    )  # fmt: skip
    tar(
        tmp_path / "0.tar",
        {"a.seg.png": one, "a.webp": one, "a.txt": "zero", "a.png": two, "my.cat.PNG": one, "my.cat.txt": "a"},
        format=tarfile.GNU_FORMAT,
    )
    source = sources.open(tmp_path)
    wanted = {"0.tar/a.webp": "zero", "1.tar/a.png": "one", "1.tar/deep/b.jpg": "two", f"1.tar/{long}.jpeg": "long"}
    assert listed(source) == wanted and source.kind == "webdataset"
    assert [entry.read() for entry in source.entries] == [one, one, two, two]
    assert [tuple(each) for each in source.skipped] == [
        ("0.tar/a.png", "it is the second picture named a"),
        ("0.tar/a.seg.png", "its ending begins at the first point of its name, and seg.png is none of a picture"),
        ("0.tar/my.cat.png", "its ending begins at the first point of its name, and cat.png is none of a picture"),
        ("1.tar/c.png", "it has no caption: no .txt and no .json of its name"),
        ("1.tar/e.png", "its .json can't be used: caption must be a text in it, got a list"),
    ]
    assert listed(sources.open(tmp_path / "1.tar", column="caption"))["1.tar/a.png"] == "not this"


def test_links_and_devices_in_a_tar_are_left_alone(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for name, kind in {"a.png": tarfile.SYMTYPE, "b.png": tarfile.LNKTYPE, "c.png": tarfile.CHRTYPE}.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    with pytest.raises(FileNotFoundError, match=r"holds no picture with a caption$"):
        sources.open(tmp_path)


def test_a_damaged_tar_is_one_sentence(tmp_path):
    tar(tmp_path / "a.tar", {"a.png": b"x" * 2000, "a.txt": "one"})
    whole = (tmp_path / "a.tar").read_bytes()
    for content, why in ((b"nonsense" * 100, "invalid header"), (whole[:1500], "unexpected end of data")):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(ValueError, match=rf"a\.tar is no tar file, or is damaged \({why}"):
            sources.open(tmp_path / "a.tar")
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**40
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + whole)
    with pytest.raises(ValueError, match=r"is damaged \(a header is larger than any name\)"):
        sources.open(tmp_path / "a.tar")


# --- the authors' list ------------------------------------------------------------------------------------------------


def test_the_authors_list_with_pictures_beside_it(tmp_path):
    rows = [files.row("a/0.png", 4, 6), files.row("a/1.png", 46, 10), files.row("2.png", 4, 6)]
    put(tmp_path / "InternData" / "data_info.json", json.dumps(rows))
    put(tmp_path / "InternImgs" / "a" / "0.png", encoded(square()))
    source = sources.open(tmp_path / "InternData")
    assert listed(source) == {"a/0.png": "picture 0"} and source.entries[0].read() == encoded(square())
    assert [tuple(each) for each in source.skipped] == [
        ("2.png", "there is no file 2.png"), ("a/1.png", "its height / width of 4.6 is above 4.5"),
    ]  # fmt: skip
    assert listed(sources.open(tmp_path / "InternData", column="sharegpt4v")) == {
        "a/0.png": "a long caption of picture 0"
    }


# --- pictures ---------------------------------------------------------------------------------------------------------

GREY16 = (np.linspace(0, 65535, 24).reshape(4, 6)).astype(np.uint16)


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(pictures.decode(content))


def test_a_picture_is_turned_as_its_camera_was():
    exif = Image.Exif()
    exif[0x0112] = 6  # the row 0 of what is stored is the right side of what was seen
    turned = decoded(encoded(square(), exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(square()), -1))


def test_transparency_is_laid_over_white():
    seen = Image.new("RGBA", (2, 1))
    seen.putpixel((0, 0), (*RED, 255))
    seen.putpixel((1, 0), (0, 0, 0, 102))
    for content in (encoded(seen), encoded(seen, "WEBP", lossless=True)):
        np.testing.assert_array_equal(decoded(content), [[RED, (153, 153, 153)]])
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, 1, 2, 3])
    palette.putpixel((1, 0), 1)
    np.testing.assert_array_equal(decoded(encoded(palette)), [[RED, (1, 2, 3)]])
    np.testing.assert_array_equal(decoded(encoded(palette, transparency=1)), [[RED, (255, 255, 255)]])
    both = Image.merge("LA", (Image.new("L", (2, 1), 100), Image.new("L", (2, 1), 51)))
    np.testing.assert_array_equal(decoded(encoded(both)), np.full((1, 2, 3), 224))


def test_sixteen_bits_floats_grey_and_cmyk():
    grey = np.rint(GREY16 / 257)[..., None].repeat(3, 2)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(GREY16))), grey)
    floats = Image.fromarray((GREY16 / 65535).astype(np.float32))
    np.testing.assert_array_equal(decoded(encoded(floats, "TIFF")), grey)
    eight = Image.fromarray(grey[..., 0].astype(np.uint8))
    np.testing.assert_array_equal(decoded(encoded(eight)), grey)
    np.testing.assert_array_equal(decoded(encoded(Image.new("1", (1, 1), 1))), [[[255] * 3]])
    ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for content in (encoded(ink, "TIFF"), encoded(ink, "JPEG", quality=100)):
        assert np.abs(decoded(content).astype(int) - (255, 0, 0)).max() <= 3
    frames = [square(), square((0, 0, 0))]
    first = decoded(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))
    np.testing.assert_array_equal(first, np.asarray(frames[0]))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is no picture that Pillow can read"),
        (b"no picture", "it is no picture that Pillow can read"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:2000], r"Pillow can't read it \(image file is truncated"),
        (encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "TIFF"), "holds NaN or infinity"),
    ],
)
def test_what_is_no_picture_is_a_sentence_that_is_always_the_same(content, sentence):
    said = set()
    for _ in range(2):
        with pytest.raises(ValueError, match=sentence) as raised:
            pictures.decode(content)
        said.add(str(raised.value))
    assert len(said) == 1 and "\n" not in said.pop()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 16), (16, 4), (40, 60)])
def test_the_middle_is_cut_out_without_distortion(height, width):
    """A ramp in both directions keeps its middle, and its slopes in the ratio of the scale."""
    h, w = 40, 60
    y, x = np.mgrid[:h, :w]
    ramp = np.stack([2 * y + 60, 2 * x + 60, 0 * x], 2).astype(np.uint8)
    found = pictures.fit(Image.fromarray(ramp), height, width).astype(float)
    assert found.shape == (height, width, 3)
    scale = max(height / h, width / w)
    for channel, side, whole in ((0, height, h), (1, width, w)):
        line = found.mean(1 - channel)[:, channel]
        expected = 60 + 2 * ((np.arange(side) + 0.5 - side / 2) / scale + whole / 2 - 0.5)
        np.testing.assert_allclose(line[1:-1], expected[1:-1], atol=1)
