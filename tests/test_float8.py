"""float8 as the format's definition has it (arXiv:2209.05433): every byte, and a text encoder that is stored so."""

from __future__ import annotations

import numpy as np
import pytest
from test_header import write

from pixart_fn.files.safetensors import open_file

FORMATS = {"F8_E4M3": (4, 3, 7), "F8_E5M2": (5, 2, 15)}
"""The bits of the exponent, of the mantissa, and the exponent's bias."""


def meaning(byte: int, dtype: str) -> float | None:
    """The number of a byte by sign, exponent and mantissa; None where it stands for none that is finite."""
    wide, narrow, bias = FORMATS[dtype]
    exponent, mantissa = byte >> narrow & (1 << wide) - 1, byte & (1 << narrow) - 1
    last = exponent == (1 << wide) - 1
    if last and (dtype == "F8_E5M2" or mantissa == (1 << narrow) - 1):
        return None
    value = (mantissa / 2**narrow + (exponent > 0)) * 2.0 ** (max(exponent, 1) - bias)
    return -value if byte >> 7 else value


def header(dtype, count):
    return {"a": {"dtype": dtype, "shape": [count, 1], "data_offsets": [0, count]}}


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_byte_is_the_number_of_the_definition(tmp_path, dtype):
    finite = [byte for byte in range(256) if meaning(byte, dtype) is not None]
    assert len(finite) == {"F8_E4M3": 254, "F8_E5M2": 248}[dtype]
    file = write(tmp_path / "x.safetensors", header(dtype, len(finite)), bytes(finite))
    stored = open_file(file)["a"]
    assert stored.read().ravel().tolist() == [meaning(byte, dtype) for byte in finite]
    assert stored.rows(np.array([3, 1])).ravel().tolist() == [meaning(finite[i], dtype) for i in (3, 1)]


@pytest.mark.parametrize("dtype", FORMATS)
def test_what_is_no_finite_number_is_refused(tmp_path, dtype):
    for byte in (byte for byte in range(256) if meaning(byte, dtype) is None):
        file = write(tmp_path / "x.safetensors", header(dtype, 1), bytes([byte]))
        with pytest.raises(ValueError, match="where only finite numbers can be used"):
            open_file(file)["a"].read()
