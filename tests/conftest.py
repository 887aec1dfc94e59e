"""Hypothesis draws the same examples everywhere (PIXART_FN_EXAMPLES asks for more of them); a pipeline's folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import HealthCheck, settings
from safetensors.numpy import save_file

from pixart_fn.backend import jit

jit.FIRST_CALLS = 0  # what the tests compare is the graphs, as large models run; test_first_calls.py compares the rest

settings.register_profile(
    "pixart_fn",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("PIXART_FN_EXAMPLES", "25")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pixart_fn")


@pytest.fixture
def eagerly(monkeypatch):
    """Have MindSpore run a small block's operations one by one, which gives the graph's bits and compiles nothing."""
    monkeypatch.setattr(jit, "FIRST_CALLS", 10**9)


@pytest.fixture(scope="session")
def spiece(tmp_path_factory) -> Path:
    prefix = tmp_path_factory.mktemp("vocabulary") / "spiece"
    text = ["a cute cat", "a dog on a table", "two red apples", "sun and moon"] * 10
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(prefix),
        vocab_size=28,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.fixture
def pipeline(tmp_path, spiece) -> Path:
    """A folder as the released ones are: the old transformer class, a SentencePiece model, float32 safetensors."""
    from helpers.pipelines import CONFIGS, INDEX, SCHEDULER, arrays, weights_file, write_json

    folder = tmp_path / "pipeline"
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    for name, config in CONFIGS.items():
        write_json(folder / name / "config.json", config)
        save_file(arrays(name), weights_file(folder, name), metadata={"format": "pt"})
    (folder / "tokenizer").mkdir()
    shutil.copy(spiece, folder / "tokenizer" / "spiece.model")
    write_json(folder / "tokenizer" / "tokenizer_config.json", {"extra_ids": 0})
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """huggingface_hub as with HF_HUB_OFFLINE=1 (read at its import) and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """The name of a folder with the tiny pipeline."""
    from helpers import command

    return command.save_model(tmp_path_factory)


@pytest.fixture
def run(model, tmp_path, monkeypatch, capsys):
    """generate with the tiny model in an empty folder → (status, stdout, stderr)."""
    from helpers import command

    return command.runner(model, tmp_path, monkeypatch, capsys)
