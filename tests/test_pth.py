"""Files of torch.save without torch: read as they are, written so that others read them, and never run."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import payloads
from helpers.payloads import HOOKS, PAYLOADS, RUN, SIX, STORAGE, archive, call, name, pickled, tensor, text

from pixart_fn.files import pth
from pixart_fn.files.tensors import Held, Joined, Tensor

GOLDEN = Path(__file__).parent / "reference" / "pth"


def opened(folder: Path, content: bytes) -> dict:
    (folder / "a.pth").write_bytes(content)
    return pth.open_file(folder / "a.pth")


# --- nothing is run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", PAYLOADS)
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(label, tmp_path):
    marker = tmp_path / "marker"
    content = archive(pickled(PAYLOADS[label](marker)))
    with (
        payloads.extensions(),
        pytest.raises(ValueError, match=r"a\.pth isn't read, and nothing in it was run") as error,
    ):
        opened(tmp_path, content)
    assert not marker.exists()
    assert str(error.value).isprintable() and len(str(error.value)) < 600


@pytest.mark.parametrize("label", [label for label in RUN if label != "eval in Python 2's names"])
def test_python_itself_would_run_it(label, tmp_path):
    """Or the test above would prove nothing."""
    marker = tmp_path / "marker"
    # After it has run, many of them make a value that pickle can't use.
    with payloads.extensions(), contextlib.suppress(Exception):
        pickle.loads(pickled(RUN[label](marker)))
    assert marker.exists()


def test_what_lies_beside_the_tensors_is_not_read(tmp_path):
    marker = tmp_path / "marker"
    evil = pickled(RUN["exec"](marker))
    found = opened(tmp_path, archive(pickled(b"}" + text("a") + SIX + b"s"), {"more.pkl": evil, "data/1": evil}))
    np.testing.assert_array_equal(found["a"].bits(), [[0, 1, 2], [3, 4, 5]])
    assert not marker.exists()


# --- reading ----------------------------------------------------------------------------------------------------------

WHOLE = np.arange(24, dtype=np.float32).reshape(4, 6)
VIEWS = {
    "whole": WHOLE, "turned": WHOLE.T, "row": WHOLE[2], "column": WHOLE[:, 1], "every second": WHOLE[::2, 1::2],
    "none": np.zeros((0, 3), np.float32), "one": np.array(5, np.float32), "parameter": np.ones(2, np.float32),
}  # fmt: skip
STATE = {"0.weight": (3, 2, 0), "0.bias": (3, 10), "1.weight": (3, 20), "1.bias": (3, 30)}
TYPES = {
    "float32": "<f4", "float16": "<f2", "float64": "<f8",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1", "uint8": "u1",
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_wrote_is_read_right(protocol):
    found = pth.open_file(GOLDEN / f"protocol{protocol}.pth")
    for key, expected in VIEWS.items():
        assert found[key].dtype == "F32" and found[key].shape == expected.shape
        np.testing.assert_array_equal(found[key].bits(), expected, key)
        np.testing.assert_array_equal(found[key].read(), expected, key)
    for key, dtype in TYPES.items():
        values = found["types"][key].bits()
        assert values.dtype == dtype
        np.testing.assert_array_equal(values, np.arange(6).reshape(2, 3))
    upper = np.arange(6, dtype=np.float32).reshape(2, 3).view(np.uint32) >> 16
    np.testing.assert_array_equal(found["types"]["bfloat16"].bits(), upper)
    np.testing.assert_array_equal(found["types"]["bfloat16"].read(), np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(found["bool"].bits(), [1, 0, 1])
    for key, (*shape, start) in STATE.items():
        expected = np.arange(np.prod(shape[: 2 if key == "0.weight" else 1])).reshape(shape) + start
        np.testing.assert_array_equal(found["state_dict"][key].read(), expected)
    others = {key: value for key, value in found.items() if not isinstance(value, (Tensor, dict))}
    assert others.pop("dtype")[1] == "float16"
    assert others == {
        "epoch": 3, "step": 2**40, "loss": 0.25, "name": "PixArt-Σ", "lambdas": [None, True, (1, "a")],
        "size": (2, 3), "device": "cuda:0",
    }  # fmt: skip


def test_rows_of_a_tensor_are_found_without_the_others():
    found = pth.open_file(GOLDEN / "protocol2.pth")
    for key in ("whole", "turned", "every second"):
        np.testing.assert_array_equal(found[key].rows(1, 2).bits(), VIEWS[key][1:2])
        np.testing.assert_array_equal(found[key].rows(1, 2).read(), VIEWS[key][1:2])
    for key in ("float64", "int32"):
        with pytest.raises(ValueError, match=r"stores [FI](64|32), which isn't supported"):
            found["types"][key].read()


def test_numbers_that_nothing_can_use_are_named(tmp_path):
    values = np.array([[1, np.nan], [2, np.inf]], np.float32)
    pth.write(tmp_path / "a.pth", {"a": values, "b": values.T.copy().astype(np.float16)})
    found = pth.open_file(tmp_path / "a.pth")
    for leaf in (*found.values(), Held("a", "F32", values)):
        np.testing.assert_array_equal(np.sort(leaf.bits().reshape(-1)), [1, 2, np.inf, np.nan])
        with pytest.raises(ValueError, match="finite"):
            leaf.read()


def test_a_file_that_is_changed_while_it_is_open_is_noticed(tmp_path):
    pth.write(tmp_path / "a.pth", {"a": WHOLE})
    found = pth.open_file(tmp_path / "a.pth")
    with open(tmp_path / "a.pth", "r+b") as file:
        file.truncate(100)
    with pytest.raises(OSError, match="was changed after it was opened"):
        found["a"].bits()


def sized(shape: bytes, strides: bytes, first: bytes = b"K\x00") -> bytes:
    return pickled(b"}" + text("a") + tensor(STORAGE, first, shape, strides, b"\x89", HOOKS) + b"s")


def pair(entry: bytes, size: int) -> bytes:
    """Two entries of one name."""
    made = io.BytesIO(archive(pickled(b"}")))
    with zipfile.ZipFile(made, "a") as again, pytest.warns(UserWarning, match="Duplicate name"):
        again.writestr(entry.decode(), b"0" * size)
    return made.getvalue()


def other_size(content: bytes) -> bytes:
    """The list of files says that the storage is larger than it is."""
    at = content.rindex(b"archive/data/0") - 46
    return content[: at + 20] + struct.pack("<2L", 999_999, 999_999) + content[at + 28 :]


HUGE = b"\x8a\x08" + struct.pack("<q", 2**62)
WRONG = {
    "more numbers than there are": (sized(b"K\x07\x85", b"K\x01\x85"), "reaches beyond its storage of 6 numbers"),
    "from too far": (sized(b"K\x03\x85", b"K\x01\x85", b"K\x04"), "reaches beyond its storage"),
    "with wide strides": (sized(b"K\x02K\x02\x86", b"K\x05K\x02\x86"), "reaches beyond its storage"),
    "a number again and again": (sized(HUGE + b"\x85", b"K\x00\x85"), "reaches beyond its storage"),
    "backwards": (sized(b"K\x02\x85", b"J\xff\xff\xff\xff\x85"), "in another way than torch.save does"),
    "before the beginning": (sized(b"K\x02\x85", b"K\x01\x85", b"J\xff\xff\xff\xff"), "in another way"),
    "of half a side": (sized(b"G\x3f\xe0\0\0\0\0\0\0\x85", b"K\x01\x85"), "in another way"),
    "of a side that is True": (sized(b"\x88\x85", b"K\x01\x85"), "in another way"),
    "with too few strides": (sized(b"K\x02K\x02\x86", b"K\x01\x85"), "2 sides and 1 strides"),
    "with 33 sides": (sized(b"(" + b"K\x01" * 33 + b"t", b"(" + b"K\x01" * 33 + b"t"), "33 sides"),
    "with a hook": (
        pickled(tensor(STORAGE, b"K\0", b")", b")", b"\x89", HOOKS + text("a") + text("b") + b"s")), "in another way",
    ),
    "with the sign turned": (
        pickled(tensor(STORAGE, b"K\0", b")", b")", b"\x89", HOOKS, b"}" + text("neg") + b"\x88s")), "in another way",
    ),
    "a storage of other size": (
        pickled(call(b"", STORAGE.replace(b"K\x06", b"K\x07"))), "has 24 bytes, which aren't 7 of F32",
    ),
    "no such storage": (pickled(STORAGE.replace(text("0"), text("9"))), "it has no file 'archive/data/9'"),
    "complex numbers": (pickled(name("torch", "ComplexFloatStorage")), "names 'torch.ComplexFloatStorage', which"),
    "a number of NumPy": (pickled(name("numpy.core.multiarray", "scalar")), "the state_dict alone, .*, is read"),
    "no dict": (pickled(b"]"), "holds no dict of tensors but a list"),
    "a key that is a tuple": (pickled(b"}))s"), "a key that is neither a text nor a whole number: a tuple"),
    "a key twice": (pickled(b"}(K\x01K\x01K\x01K\x02u"), "the key 1 twice"),
    "a key of lines": (pickled(b"}" + text("a\n") + b"K\1s"), r"the key 'a\\n', which is no name"),
    "a key alone": (pickled(b"}(K\x01u"), "a key without a value"),
    "nothing on the stack": (pickled(b"u"), "takes more from its stack than is there"),
    "nothing beneath a mark": (pickled(b"}(\x85t"), "takes more from its stack than is there"),
    "a value that isn't numbered": (pickled(b"h\x07"), "asks for its value 7"),
    "an early end": (pickled(b"}X\xff\xff\xff\xffa"), "ends too early"),
    "no end": (pickled(b"}")[:-1], "ends too early"),
    "a frame that is too long": (pickled(b"\x95" + b"\xff" * 8), "ends too early"),
    "another protocol": (b"\x80\x09}.", "must be of one of the protocols"),
    "a protocol in the middle": (b"\x80\x04\x80\x02}.", "must be of one of the protocols"),
    "no opcode": (pickled(b"\xff"), "the byte 0xff, which is no opcode"),
    "a text that isn't UTF-8": (pickled(b"X\x01\0\0\0\xff"), "isn't UTF-8"),
    "an endless name": (pickled(b"c" + b"a" * 10**5), "a name of more than 200 letters"),
    "a pickle of 5 MB": (pickled(b"(" * 5_000_000), "more than 4 MiB"),
}  # fmt: skip
EMPTY = archive(pickled(b"}"))
FILES = {
    "nothing": (b"", "is empty; download it again"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer: run `git lfs pull`"),
    "another file": (b"\x89PNG\r\n\x1a\n", "is no file of torch.save"),
    "cut off": (EMPTY[:-30], "its end is missing; download it again"),
    "an end alone": (b"PK\5\6" + b"\0" * 18, "it must hold one data.pkl"),
    "no pickle": (archive(b"").replace(b"data.pkl", b"data.pcl"), "it must hold one data.pkl"),
    "two pickles": (EMPTY.replace(b"archive/version", b"versio/data.pkl"), "it must hold one data.pkl"),
    "compressed": (archive(pickled(b"}"), packed=zipfile.ZIP_DEFLATED), "is compressed, as torch writes none"),
    "big-endian": (archive(pickled(b"}"), {"byteorder": b"big"}), "big-endian machine"),
    "out of the folder": (EMPTY.replace(b"archive/version", b"../chive/versio"), "no plain relative path"),
    "an absolute path": (EMPTY.replace(b"archive/version", b"/rchive/version"), "no plain relative"),
    "a backslash": (EMPTY.replace(b"archive/version", b"archive\\version"), "no plain relative path"),
    "a size that isn't right": (other_size(EMPTY), "reaches into another"),
    "another name inside": (
        EMPTY.replace(b"archive/version", b"archive/versiom", 1), "has no file 'archive/version'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("label", [*WRONG, *FILES])
def test_a_damaged_or_hostile_file_is_one_sentence(label, tmp_path):
    content, sentence = (archive(WRONG[label][0]), WRONG[label][1]) if label in WRONG else FILES[label]
    with pytest.raises(ValueError, match=r"a\.pth .*" + sentence) as error:
        opened(tmp_path, content)
    assert "\n" not in str(error.value)


def test_two_entries_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two files of one name"):
        opened(tmp_path, pair(b"archive/data/0", 24))


@pytest.mark.parametrize(("file", "sentence"), [("legacy", "of torch before 1.6"), ("script", "a TorchScript program")])
def test_other_formats_of_torch_are_refused_with_what_to_do(file, sentence):
    with pytest.raises(ValueError, match=sentence):
        pth.open_file(GOLDEN / f"{file}.pth")


def test_values_inside_each_other_take_no_time(tmp_path):
    """A tuple of two times a tuple of two times …, which must not be hashed; and lists ten thousand deep."""
    twice = b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(100))
    deep = b"]" * 10**4 + b"a" * (10**4 - 1)
    found = opened(tmp_path, archive(pickled(b"}" + text("a") + twice + b"s" + text("b") + deep + b"s")))
    assert found.keys() == {"a", "b"}


# --- writing ----------------------------------------------------------------------------------------------------------


class Read(pickle.Unpickler):
    """Python's own unpickler, with functions in the place of torch's."""

    def __init__(self, archive: zipfile.ZipFile):
        super().__init__(io.BytesIO(archive.read("archive/data.pkl")))
        self.archive = archive

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, first, shape, strides, grad, hooks: np.lib.stride_tricks.as_strided(
                storage[first:], shape, [step * storage.itemsize for step in strides]
            )
        return dict if module == "collections" else name

    def persistent_load(self, pid):
        kind, storage, key, device, count = pid
        dtype = {"FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2", "LongStorage": "<i8"}[storage]
        values = np.frombuffer(self.archive.read(f"archive/data/{key}"), dtype)
        assert (kind, device, count) == ("storage", "cpu", values.size)
        return values


def example() -> dict:
    upper = (np.arange(6, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16).reshape(2, 3)
    parts = [Held(str(i), "F32", WHOLE[2 * i : 2 * i + 2]) for i in range(2)]
    return {
        "state_dict": {"a.weight": WHOLE, "turned": WHOLE.T, "half": WHOLE.astype(np.float16), "Σ": np.arange(300)},
        "more": {"bf": Held("bf", "BF16", upper), "none": VIEWS["none"], "one": VIEWS["one"], "two": Joined(parts)},
    }


def expected() -> dict:
    made = example()
    made["more"] |= {"bf": made["more"]["bf"].values, "two": WHOLE}
    return made


def test_python_and_this_reader_read_what_is_written(tmp_path):
    pth.write(tmp_path / "a.pth", example())
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None
        read = Read(archive).load()
        for entry in archive.infolist():
            with open(tmp_path / "a.pth", "rb") as file:
                file.seek(entry.header_offset + 26)
                named, more = struct.unpack("<2H", file.read(4))
            assert (entry.header_offset + 30 + named + more) % 64 == 0
    found = pth.open_file(tmp_path / "a.pth")
    for key, values in expected().items():
        assert read[key].keys() == found[key].keys() == values.keys()
        for inner, value in values.items():
            for each in (read[key][inner], found[key][inner].bits()):
                assert each.dtype == value.dtype and each.shape == value.shape
                np.testing.assert_array_equal(each, value)


def test_what_can_not_be_written_leaves_no_file(tmp_path):
    for content, error in (({"a": 1}, TypeError), ({"a": np.ones(1, complex)}, TypeError), ({1: WHOLE}, ValueError)):
        with pytest.raises(error):
            pth.write(tmp_path / "a.pth", content)
    assert not list(tmp_path.iterdir())


@pytest.mark.reference
def test_torch_reads_what_is_written_and_its_files_are_read(tmp_path):
    import torch

    pth.write(tmp_path / "a.pth", example())
    for mapped in (False, True):
        read = torch.load(tmp_path / "a.pth", weights_only=True, mmap=mapped)
        assert read.pop("state_dict").keys() == example()["state_dict"].keys()
        more = read["more"]
        assert more["bf"].dtype == torch.bfloat16
        np.testing.assert_array_equal(more["bf"].float(), np.arange(6).reshape(2, 3))
        np.testing.assert_array_equal(more["two"], WHOLE)
    for protocol in (2, 3, 4, 5):
        base = torch.randn(7, 5, 3)
        saved = {"base": base, "part": base[1:4, ::2].transpose(0, 2), "half": base.half(), "bf": base.bfloat16()}
        torch.save(saved, tmp_path / "b.pth", pickle_protocol=protocol)
        for key, leaf in pth.open_file(tmp_path / "b.pth").items():
            np.testing.assert_array_equal(leaf.read(), saved[key].float().numpy())
