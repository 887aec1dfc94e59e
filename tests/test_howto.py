"""Every block of Python in the how-to pages and in the README runs, and each error that a page quotes is raised."""

from __future__ import annotations

import inspect
import re
import shutil
import warnings
from pathlib import Path

import pytest
from helpers import tiny

import pixart_fn as px

HOWTO = Path(__file__).resolve().parents[1] / "notebooks" / "howto"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
APART = {
    "errors": "its blocks raise errors, and are run below",
    "threads_and_servers": "test_server.py runs its server",
    "train_in_python": "test_examples.py runs it with a data set",
}
"""Pages whose blocks another test runs."""
SLOW = ("README", "differentiate")
"""Pages with gradients, whose graphs take seconds to compile."""
PAGES = [
    pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])
    for page in (*sorted(HOWTO.glob("*.md")), HOWTO.parents[1] / "README.md")
    if page.stem not in APART and BLOCK.search(page.read_text("utf-8"))
]
QUOTED = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\s+^```text\n(?P<said>.*?)^```$)?", re.M | re.S)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A tiny pipeline in the place of those that a page loads from the hub, an adapter and a ControlNet of it."""
    params, load = tiny.params(), px.load
    signature = inspect.signature(load)

    def loaded(*args, **options):
        given = signature.bind(*args, **options).arguments
        if Path(str(given.get("source"))).is_dir():
            return load(*args, **options)
        return params.replace(**{name: None for name in ("text_encoder", "vae") if given.get(name, True) is None})

    monkeypatch.setattr(px, "load", loaded)
    adapter = px.lora.init(px.key(1), params.transformer, px.lora.Config(rank=2))
    monkeypatch.setattr(px.lora, "load", lambda file: adapter)
    config = px.controlnet.Config(1, 2, 16)
    net = px.controlnet.init(params.transformer, params.config.transformer, config), config
    monkeypatch.setattr(px.controlnet, "load", lambda: net)
    monkeypatch.chdir(tmp_path)


def test_there_are_pages_to_run():
    assert len(PAGES) >= 9


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, small):
    space: dict = {}
    for block in BLOCK.findall(page.read_text("utf-8")):
        exec(compile(block, page.name, "exec"), space)


def errors() -> list[tuple[str, str]]:
    """The blocks of the page of errors, each with what it raises, or with nothing."""
    page = (HOWTO / "errors.md").read_text("utf-8")
    return [(found["code"], (found["said"] or "").strip()) for found in QUOTED.finditer(page)]


def test_every_error_that_the_page_quotes_is_raised(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("my-pipeline/transformer").mkdir(parents=True)
    shutil.copy(HOWTO.parents[1] / "weights/emoji/transformer/config.json", "my-pipeline/transformer")
    space: dict = {}
    quoted = 0
    for code, said in errors():
        if not said:
            exec(code, space)
            continue
        quoted += 1
        with pytest.raises(Exception) as caught, warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(code, space)
        assert f"{caught.type.__name__}: {caught.value}" == said
    assert quoted >= 12
