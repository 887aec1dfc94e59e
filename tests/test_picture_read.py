"""Pictures and masks to draw from, as files come: turned, transparent, of another size, damaged, or another file."""

from __future__ import annotations

import hashlib
import os
import struct

import numpy as np
import pytest
from PIL import Image

from pixart_fn.files import reading
from pixart_fn.picture import read_picture, read_settings

PHOTO = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


@pytest.fixture
def file(tmp_path):
    def save(picture, name="a.png", **options):
        Image.fromarray(picture).save(tmp_path / name, **options)
        return tmp_path / name

    return save


def test_a_picture_is_read_as_it_is(file):
    read = read_picture(file(PHOTO))
    assert read.mode == "RGB" and np.array_equal(np.asarray(read), PHOTO)
    assert read_picture(str(file(PHOTO, "a.webp", lossless=True))).tobytes() == read.tobytes()


def test_it_is_turned_as_its_exif_says(file):
    exif = Image.Exif()
    exif[0x112] = 6  # the camera's right side is up: turned by 90° clockwise
    assert np.array_equal(np.asarray(read_picture(file(PHOTO, exif=exif))), np.rot90(PHOTO, -1))


def test_what_is_transparent_is_white(file):
    alpha = np.zeros((6, 9, 1), np.uint8)
    alpha[:3] = 255
    read = np.asarray(read_picture(file(np.concatenate([PHOTO, alpha], 2))))
    assert np.array_equal(read[:3], PHOTO[:3]) and (read[3:] == 255).all()


def test_it_covers_the_size_and_its_middle_is_cut_out(file):
    wide = np.repeat(np.repeat(PHOTO, 4, 0), 4, 1)
    assert read_picture(file(wide), 12, 12).size == (12, 12)
    middle = np.asarray(read_picture(file(wide), 24, 24))
    assert np.array_equal(middle, wide[:, 6:30])


def test_a_mask_is_grey_and_has_no_means(file):
    white = np.zeros((6, 9), np.uint8)
    white[:, :5] = 255
    read = read_picture(file(white), 13, 17, mask=True)
    assert read.mode == "L" and read.size == (17, 13) and {*np.unique(np.asarray(read))} == {0, 255}


def test_the_file_is_known_by_its_bytes(file):
    path = file(PHOTO)
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    read_picture(path, sha256=own)
    with pytest.raises(ValueError, match=r"a\.png' isn't the file that was meant: its sha256 isn't 0000"):
        read_picture(path, sha256="0" * 64)


def test_more_than_8_bits_would_be_cut_and_are_refused(file):
    with pytest.raises(ValueError, match=r"a\.png' has more than 8 bits per channel; save it with 8"):
        read_picture(file(np.full((4, 4), 40_000, np.uint16)))


@pytest.mark.parametrize("read", [read_picture, read_settings])
def test_a_large_part_beside_the_pixels_is_refused_before_pillow_reads_it(file, read):
    size = reading.MOST + 1
    path = file(PHOTO)
    whole = path.read_bytes()
    with open(path, "wb") as hollow:
        hollow.write(whole[:33] + struct.pack(">I", size) + b"iTXt")
        hollow.seek(size + 4, os.SEEK_CUR)
        hollow.write(whole[33:])
    with pytest.raises(ValueError, match=r"holds a part of 64 MiB beside its pixels, and at most 64 are read$"):
        read(path)


def test_damaged_files_are_a_sentence(file):
    path = file(PHOTO)
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(0, len(damaged), 3)] = random.integers(0, 256, 3)
        path.write_bytes(damaged.tobytes()[: random.integers(1, 2 * len(whole))])
        try:
            assert read_picture(path).mode == "RGB"
        except ValueError as error:
            assert str(error).startswith(repr(str(path))) and "\n" not in str(error)
