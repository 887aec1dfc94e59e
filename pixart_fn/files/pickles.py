"""Writing the pickle of a .pth: dicts, and calls that make tensors, in protocol 2."""

from __future__ import annotations

from typing import Any, NamedTuple


class Described(NamedTuple):
    """A tensor whose numbers lie in order in a storage of its own.

    Args:
        storage: the name of torch's class of storages.
        key: of the storage.
        shape: its shape.
        strides: how many numbers lie from one to the next along each axis.
    """

    storage: str
    key: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def dump(content: Any) -> bytes:
    """Write dicts by text whose leaves are Described, as torch.load reads them.

    Args:
        content: the outermost dict.
    Returns:
        The pickle.
    """
    return b"\x80\x02" + _value(content) + b"."


def _value(value: Any) -> bytes:
    if isinstance(value, Described):
        return _tensor(value)
    if isinstance(value, dict):
        return b"}(" + b"".join(_value(key) + _value(each) for key, each in value.items()) + b"u"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_value, value)) + b"t"
    if isinstance(value, str):
        text = value.encode()
        return b"X" + len(text).to_bytes(4, "little") + text
    assert isinstance(value, int)
    size = value.bit_length() // 8 + 1
    return b"\x8a" + size.to_bytes(1, "little") + value.to_bytes(size, "little", signed=True)


def _tensor(tensor: Described) -> bytes:
    count = 1
    for n in tensor.shape:
        count *= n
    stored = b"(" + _value("storage") + b"ctorch\n" + tensor.storage.encode() + b"\n"
    stored += _value(str(tensor.key)) + _value("cpu") + _value(count) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = stored + _value(0) + _value(tensor.shape) + _value(tensor.strides) + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"
