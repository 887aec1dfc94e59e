"""Descriptors that are closed when what holds them is freed, without a function in Python."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import sys
import threading

import numpy as np
import pytest
from safetensors.numpy import save_file

from pixart_fn.files.owned import Lock, Owned
from pixart_fn.files.safetensors import Opened


def opened(tmp_path):
    return os.open(tmp_path, os.O_RDONLY)


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def safetensors(tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    return Opened(tmp_path / "a.safetensors")


HOLDERS = {
    "owned": lambda tmp_path: Owned(opened(tmp_path)),
    "lock": lambda tmp_path: Lock(tmp_path, os.O_RDONLY),
    "safetensors": safetensors,
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_what_is_freed_closes_its_descriptor_and_calls_no_function_in_python(tmp_path, kind):
    """Where one is called, Python may call a handler, and ignores the KeyboardInterrupt that it raises."""
    holder, called = HOLDERS[kind](tmp_path), []
    descriptor = holder.descriptor

    def note(frame, event, argument):
        if event == "call":
            called.append(frame.f_code.co_name)

    assert is_open(descriptor)
    sys.setprofile(note)
    del holder
    sys.setprofile(None)
    assert not is_open(descriptor) and not called


def test_what_was_closed_is_not_closed_again(tmp_path):
    owned = Owned(opened(tmp_path))
    descriptor = owned.descriptor
    owned.close()
    assert not is_open(descriptor)
    again = opened(tmp_path)  # which gets the same number
    owned.close()
    del owned
    assert again == descriptor and is_open(again)
    os.close(again)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("kind", HOLDERS)
def test_what_is_copied_closes_nothing(tmp_path, kind, copied):
    """A copy of a file that is read in pieces would close it for the first one."""
    holder = HOLDERS[kind](tmp_path)
    with pytest.raises(TypeError, match="open can't be copied or pickled"):
        copied(holder)
    gc.collect()
    assert is_open(holder.descriptor)


def test_each_of_many_threads_closes_its_own(tmp_path):
    def repeat():
        for _ in range(100):
            HOLDERS["lock"](tmp_path).take(wait=False)

    before = len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=repeat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(os.listdir("/proc/self/fd")) == before
