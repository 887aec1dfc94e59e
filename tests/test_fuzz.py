"""A quick part of the fuzz suite (`python -m tests.fuzz`): damaged files are read or refused in one sentence."""

from __future__ import annotations

import itertools

import pytest
from fuzz.run import CORPUS, fault, inputs
from fuzz.targets import TARGETS

PAST = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", PAST, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_past_crashes_stay_mended(path, tmp_path):
    assert not fault(TARGETS[path.parent.name], path.read_bytes(), tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of solvers that draw noise, and of a prompt that is cut
@pytest.mark.parametrize("name", TARGETS)
def test_valid_files_are_read(name, tmp_path):
    for content in TARGETS[name].seeds():
        TARGETS[name].read(content, tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused_in_one_sentence(name, tmp_path):
    for content in itertools.islice(inputs(TARGETS[name], 1), 60):
        assert not fault(TARGETS[name], content, tmp_path), content
