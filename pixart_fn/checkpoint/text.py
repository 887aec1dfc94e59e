"""Files of encoded prompts, with which pictures can be drawn without the text encoder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from mindspore import Tensor

from ..backend.arrays import as_float, as_tensor, check_finite, check_mask
from ..checks import kind
from ..files import atomic
from ..files.safetensors import open_file, write_file
from ..public import public
from ..types import Text
from .sources import written


@public
def save_text(text: Text, file: str | os.PathLike[str]) -> None:
    """Write encoded prompts to a .safetensors file.

    Args:
        text: from `encode_prompt`.
        file: the name of the file, which must end in .safetensors; an existing file is replaced in one step.
    Raises:
        TypeError: text isn't a Text.
        ValueError: text has other shapes or values than a Text, or the name doesn't end in .safetensors.
    """
    if not isinstance(text, Text):
        raise TypeError(f"text must be a Text, as px.encode_prompt makes, got {kind(text)}")
    states, mask = as_float(text.states, "text.states"), as_tensor(text.mask, "text.mask")
    if states.ndim != 3 or tuple(mask.shape) != tuple(states.shape[:2]):
        shapes = f"{tuple(states.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"text must have states (B, L, C) and a mask (B, L), got {shapes}")
    check_mask(mask, "text.mask")
    check_finite(states, "text.states")
    path = _checked(file)
    atomic.write(path, lambda temporary: write_file(temporary, text._asdict(), dict.fromkeys(Text._fields, "F32")))


@public
def load_text(file: str | os.PathLike[str]) -> Text:
    """Read encoded prompts that `save_text` wrote.

    Args:
        file: the name of the file.
    Returns:
        Text(states (B, L, C) float32, mask (B, L) int32).
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `save_text` didn't write this file, or it is damaged.
    """
    stored = open_file(_checked(file))
    shapes = [stored[name].shape for name in Text._fields if name in stored]
    if set(stored) != set(Text._fields) or len(shapes[0]) != 3 or 0 in shapes[0] or shapes[0][:2] != shapes[1]:
        raise ValueError(
            f"{file} doesn't hold encoded prompts, states (B, L, C) and mask (B, L); save_text writes them"
        )
    states, mask = (Tensor.from_numpy(stored[name].copy()) for name in Text._fields)
    check_mask(mask, f"the mask in {file}")
    return Text(states, Tensor.from_numpy(mask.asnumpy().astype(np.int32)))


def _checked(file: str | os.PathLike[str]) -> Path:
    path = Path(os.path.expanduser(written(file, "file", "a .safetensors file")))
    if path.suffix != ".safetensors":
        raise ValueError(f"encoded prompts are stored in a .safetensors file, got {str(file)!r}")
    return path
