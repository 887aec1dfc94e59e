"""The pickles that torch.save writes, read by an interpreter of their few opcodes that imports and calls nothing.

Python's own unpickler imports whatever a file names and calls it. Here a name is only compared with those that tensors
are made of, and what such a name "calls" is a function of the reader's own.
"""

from __future__ import annotations

import functools
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ..checks import kind, shown
from .header import LONGEST

LARGEST = 2**22
"""Bytes of a pickle. That of a model of 42 layers with the state of its optimiser has 300 kB."""
PROTOCOLS = (2, 3, 4, 5)
LONGEST_NAME = 200
"""Letters of a module or of a name in it."""


class Global(NamedTuple):
    """A name of a module, which stands for itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Reader(NamedTuple):
    """What a file may name, and what becomes of it.

    Args:
        names: every Global that is taken.
        make: (name, arguments) → the value of such a call.
        stored: persistent id → the value that it stands for.
    """

    names: Collection[Global]
    make: Callable[[Global, tuple[Any, ...]], Any]
    stored: Callable[[Any], Any]


def load(data: bytes, reader: Reader) -> Any:
    """Read a pickle.

    Args:
        data: its bytes.
        reader: what it may name.
    Returns:
        What it holds: None, bools, numbers, texts, tuples, lists, dicts by text or whole number, the reader's values,
        and a Global where one stands for itself. They may contain each other, and themselves.
    Raises:
        ValueError: it is too large, damaged, or holds what torch.save doesn't write for tensors.
    """
    if len(data) > LARGEST:
        raise ValueError(f"its pickle has more than {LARGEST >> 20} MiB, which the names of no model take")
    machine = _Machine(data, reader)
    try:
        while not machine.done:
            _step(machine)
    except IndexError:
        raise ValueError("its pickle takes more from its stack than is there") from None
    return machine.result


class _Machine:
    """The state of the interpreter: a stack with its marks, numbered values, and a place in the bytes."""

    def __init__(self, data: bytes, reader: Reader):
        self.data, self.at, self.reader = data, 0, reader
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stacks beneath the marks."""
        self.memo: dict[int, Any] = {}
        self.done, self.result = False, None

    def take(self, size: int) -> bytes:
        found = self.data[self.at : self.at + size]
        if len(found) < size:
            raise ValueError("its pickle ends too early")
        self.at += size
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise ValueError("its pickle holds a text that isn't UTF-8") from None

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + LONGEST_NAME + 1)
        if end < 0:
            raise ValueError(f"its pickle holds a name of more than {LONGEST_NAME} letters")
        found = self.text(end - self.at)
        self.at = end + 1
        return found

    def marked(self) -> list[Any]:
        """Return what lies above the last mark, and take the mark off."""
        items, self.stack = self.stack, self.below.pop()
        return items


def _step(m: _Machine) -> None:
    code = m.take(1)
    act = _ACTS.get(code)
    if act is None:
        name = next((each.name for each in pickletools.opcodes if each.code == code.decode("latin-1")), None)
        what = f"the opcode {name}" if name else f"the byte {code[0]:#04x}, which is no opcode"
        raise ValueError(f"its pickle holds {what}, and torch.save writes none for tensors")
    act(m)


# --- opcodes ----------------------------------------------------------------------------------------------------------


def _protocol(m: _Machine) -> None:
    number = m.number("<B")
    if number not in PROTOCOLS or m.at != 2:
        raise ValueError(f"its pickle must be of one of the protocols {PROTOCOLS}, got {number}")


def _frame(m: _Machine) -> None:
    """Begin a frame, which says how many bytes may be read ahead: all of them are there."""
    if m.number("<Q") > len(m.data) - m.at:
        raise ValueError("its pickle ends too early")


def _stop(m: _Machine) -> None:
    m.result = m.stack.pop()
    if m.stack or m.below or m.at != len(m.data):
        raise ValueError("its pickle holds more than one value")
    m.done = True


def _mark(m: _Machine) -> None:
    m.below.append(m.stack)
    m.stack = []


def _push(value: Any, m: _Machine) -> None:
    m.stack.append(value)


def _push_dict(m: _Machine) -> None:
    m.stack.append({})


def _push_list(m: _Machine) -> None:
    m.stack.append([])


def _push_number(form: str, m: _Machine) -> None:
    m.stack.append(m.number(form))


def _push_long(m: _Machine) -> None:
    m.stack.append(int.from_bytes(m.take(m.number("<B")), "little", signed=True))


def _push_text(form: str, m: _Machine) -> None:
    m.stack.append(m.text(m.number(form)))


def _tuple(size: int, m: _Machine) -> None:
    if len(m.stack) < size:
        raise IndexError
    items = tuple(m.stack[-size:])
    m.stack[-size:] = [items]


def _tuple_marked(m: _Machine) -> None:
    items = tuple(m.marked())
    m.stack.append(items)


def _put(form: str, m: _Machine) -> None:
    m.memo[m.number(form)] = m.stack[-1]


def _memoize(m: _Machine) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _get(form: str, m: _Machine) -> None:
    number = m.number(form)
    if number not in m.memo:
        raise ValueError(f"its pickle asks for its value {number}, which it hasn't numbered")
    m.stack.append(m.memo[number])


def _set(target: Any, items: list[Any]) -> None:
    if type(target) not in (dict, OrderedDict):
        raise ValueError(f"its pickle sets items of what is no dict but {kind(target)}")
    if len(items) % 2:
        raise ValueError("its pickle sets a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int):  # to hash a tuple of tuples of tuples may take for ever
            raise ValueError(
                f"its pickle holds a dict with a key that is neither a text nor a whole number: {kind(key)}"
            )
        if type(key) is str and not (key.isprintable() and len(key) <= LONGEST):
            raise ValueError(f"its pickle holds a dict with the key {shown(key)}, which is no name of a tensor")
        if key in target:
            raise ValueError(f"its pickle holds a dict with the key {shown(key)} twice")
        target[key] = value


def _set_one(m: _Machine) -> None:
    items = [m.stack.pop(), m.stack.pop()][::-1]
    _set(m.stack[-1], items)


def _set_marked(m: _Machine) -> None:
    items = m.marked()
    _set(m.stack[-1], items)


def _append(items: list[Any], target: Any) -> None:
    if type(target) is not list:
        raise ValueError(f"its pickle appends to what is no list but {kind(target)}")
    target.extend(items)


def _append_one(m: _Machine) -> None:
    item = m.stack.pop()
    _append([item], m.stack[-1])


def _append_marked(m: _Machine) -> None:
    items = m.marked()
    _append(items, m.stack[-1])


def _name(m: _Machine, module: Any, name: Any) -> None:
    found = Global(module, name)
    if not (type(module) is str and type(name) is str and found in m.reader.names):
        raise ValueError(
            f"its pickle names {shown(f'{module}.{name}')}, which tensors aren't made of; the state_dict"
            " alone, written by torch.save, is read"
        )
    m.stack.append(found)


def _name_in_lines(m: _Machine) -> None:
    module = m.line()
    _name(m, module, m.line())


def _name_on_stack(m: _Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if not (type(module) is str and type(name) is str):
        raise ValueError("its pickle takes a name from what is no text")
    _name(m, module, name)


def _call(m: _Machine) -> None:
    arguments, called = m.stack.pop(), m.stack.pop()
    if type(arguments) is not tuple:
        raise ValueError(f"its pickle calls a function with {kind(arguments)}, where torch.save has a tuple")
    if type(called) is not Global:
        raise ValueError(f"its pickle calls {kind(called)}, where torch.save has the name of a function")
    m.stack.append(m.reader.make(called, arguments))


def _state(m: _Machine) -> None:
    """Leave out what torch keeps beside an OrderedDict: the versions of modules."""
    state = m.stack.pop()
    if type(m.stack[-1]) is not OrderedDict or type(state) is not dict:
        raise ValueError(f"its pickle sets the state of {kind(m.stack[-1])}, which isn't done to tensors")


def _stored(m: _Machine) -> None:
    m.stack.append(m.reader.stored(m.stack.pop()))


_ACTS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b".": _stop,
    b"(": _mark,
    b"N": functools.partial(_push, None),
    b"\x88": functools.partial(_push, True),
    b"\x89": functools.partial(_push, False),
    b")": functools.partial(_push, ()),
    b"}": _push_dict,
    b"]": _push_list,
    b"K": functools.partial(_push_number, "<B"),
    b"M": functools.partial(_push_number, "<H"),
    b"J": functools.partial(_push_number, "<i"),
    b"G": functools.partial(_push_number, ">d"),
    b"\x8a": _push_long,
    b"X": functools.partial(_push_text, "<I"),
    b"\x8c": functools.partial(_push_text, "<B"),
    b"t": _tuple_marked,
    b"\x85": functools.partial(_tuple, 1),
    b"\x86": functools.partial(_tuple, 2),
    b"\x87": functools.partial(_tuple, 3),
    b"q": functools.partial(_put, "<B"),
    b"r": functools.partial(_put, "<I"),
    b"\x94": _memoize,
    b"h": functools.partial(_get, "<B"),
    b"j": functools.partial(_get, "<I"),
    b"s": _set_one,
    b"u": _set_marked,
    b"a": _append_one,
    b"e": _append_marked,
    b"c": _name_in_lines,
    b"\x93": _name_on_stack,
    b"R": _call,
    b"b": _state,
    b"Q": _stored,
}
"""What each opcode does; every other is refused."""
