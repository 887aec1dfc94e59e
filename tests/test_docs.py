"""The documentation site: every public name is in the reference, examples run, every page is reached from the index."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import tiny

import pixart_fn as px

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "notebooks"
DIRECTIVE = re.compile(r"^\.\. (?:auto\w+|py:data):: (px[\w.]*)", re.M)
INSIDE = ("px.transformer", "px.t5", "px.vae", "px.tree", "px.rng", "px.types", "px.plots", "px.prompts")
"""Modules without __all__, whose names without an underscore are public."""


def found(name: str) -> object:
    """What a full name such as px.train.optim.adamw stands for."""
    value: object = px
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


def names(module: ModuleType) -> list[str]:
    """The public names of a module: those of __all__, or else those it defines or says again by `import … as`."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    named = []
    for node in ast.parse(Path(module.__file__).read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            named += [alias.name for alias in node.names if alias.asname == alias.name]
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            named.append(node.name)
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            named.append(node.target.id)
    return [name for name in dict.fromkeys(named) if not name.startswith("_")]


def public() -> dict[str, object]:
    """Every public name but modules, by its full name."""
    every, modules = {}, [("px", px)]
    while modules:
        place, module = modules.pop()
        for name in names(module):
            value = getattr(module, name)
            if inspect.ismodule(value):
                modules.append((f"{place}.{name}", value))
            elif name != "__version__":
                every[f"{place}.{name}"] = value
    return every


REFERENCE = {page: DIRECTIVE.findall(page.read_text("utf-8")) for page in sorted((SITE / "reference").glob("*.md"))}


def test_every_public_name_is_in_the_reference():
    documented = [name for each in REFERENCE.values() for name in each]
    assert len(documented) == len(set(documented))
    objects = {id(found(name)) for name in documented}
    every = public()
    assert len(every) > 200
    missing = [name for name, value in every.items() if name not in documented and id(value) not in objects]
    assert not missing


def test_every_page_is_reached_from_the_index():
    reached, todo = set(), [SITE / "index.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        if page.suffix == ".md":
            for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
                entries = [line for line in block.splitlines() if line and not line.startswith(":")]
                below = [each for entry in entries for each in page.parent.glob(f"{entry}.*")]
                assert len(below) >= len(entries), f"{page.name} names pages that aren't there"
                todo += set(below) - reached
    pages = {page for page in SITE.rglob("*.*") if page.suffix in (".md", ".ipynb") and "_site" not in page.parts}
    assert pages - {page for page in pages if ".ipynb_checkpoints" in page.parts} == reached


@pytest.fixture
def short(monkeypatch, tmp_path):
    """A tiny checkpoint in the place of every other, one or two steps for every picture, and an empty folder."""
    params = tiny.params()

    def patched(module, name, change):
        real = getattr(module, name)
        signature = inspect.signature(real)

        def call(*args, **options):
            signature.bind(*args, **options)
            return change(real, *args, **options)

        monkeypatch.setattr(module, name, call)

    def one_step(real, *args, **options):
        steps = {} if "grid" in options else {"steps": 1}
        return real(*args, **{**options, "progress": False, "height": None, "width": None, **steps})  # of the tiny size

    patched(px, "load", lambda real, *args, **options: params)
    patched(px, "generate", one_step)
    patched(px, "sample_latents", one_step)
    for name in ("image_to_image", "inpaint"):
        patched(px.edit, name, lambda real, *args, **options: real(*args, **{**options, "progress": False, "steps": 2}))
    adapter = px.lora.init(px.key(1), params.transformer, px.lora.Config(rank=1))
    patched(px.lora, "load", lambda real, *args, **options: adapter)
    config = px.controlnet.Config(1, 2, 16)
    net = px.controlnet.init(params.transformer, params.config.transformer, config), config
    patched(px.controlnet, "load", lambda real, *args, **options: net)
    monkeypatch.chdir(tmp_path)


COMING = (pytest.param("coming_from_diffusers", marks=pytest.mark.slow), "coming_from_jax")


def right(name: str) -> list[str]:
    """The code in the right-hand columns of a page, in order."""
    cells = re.findall(r"^\| .* \| (.*) \|$", (SITE / f"{name}.md").read_text("utf-8"), re.M)
    shown = [cell for cell in cells if cell != "pixart_fn" and not cell.startswith("nothing")]
    return [code for cell in shown for code in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("name", ["coming_from_diffusers", "coming_from_jax"])
def test_the_right_hand_column_calls_what_there_is(name):
    called = 0
    for code in right(name):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and re.fullmatch(r"px\.[\w.]+", ast.unparse(node)):
                found(ast.unparse(node))
            if isinstance(node, ast.Call) and re.fullmatch(r"px\.[\w.]+", ast.unparse(node.func)):
                keywords = {each.arg: each for each in node.keywords}
                inspect.signature(found(ast.unparse(node.func))).bind(*node.args, **keywords)
                called += 1
    assert called > 20


@pytest.mark.parametrize("name", COMING)
def test_the_right_hand_column_runs(name, short):
    (prelude,) = re.findall(r"^```python\n(.*?)^```$", (SITE / f"{name}.md").read_text("utf-8"), re.M | re.S)
    space: dict = {}
    exec(prelude, space)
    space.update({each: space[each].resize((16, 16)) for each in ("photo", "mask") if each in space})
    for code in right(name):
        exec(code, space)


def examples() -> list:
    """The examples of every public docstring and of the pages of the reference, apart from the modules' own."""
    every = {id(value): (name, value) for name, value in sorted(public().items(), key=lambda each: -len(each[0]))}
    finder, parser = doctest.DocTestFinder(recurse=False), doctest.DocTestParser()
    docstrings = [
        test
        for name, value in every.values()
        if inspect.isroutine(value) or inspect.isclass(value)
        for test in finder.find(value, name, module=False, globs={})
        if test.examples
    ]
    pages = [
        parser.get_doctest(page.read_text("utf-8").replace("```", ""), {}, page.stem, None, 0) for page in REFERENCE
    ]
    return [*docstrings, *(test for test in pages if test.examples)]


@pytest.fixture(scope="module")
def embedded():
    return px.load()


def run(tests, params, monkeypatch, tmp_path):
    """Run examples, in which `px.load` gives the one embedded checkpoint unless it is given a folder."""
    load = px.load

    def loaded(source=None, *, text_encoder=True):
        if source:
            return load(source, text_encoder=text_encoder)
        return params if text_encoder else params.replace(text_encoder=None, tokenizer=None)

    monkeypatch.setattr(px, "load", loaded)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner()
    said = []
    for test in tests:
        test.globs = {"px": px, "np": np}
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def draws(test) -> bool:
    return bool(re.search(r"px\.(generate|sample_latents|text_denoiser|encode_\w+|decode_\w+)\(", test.docstring))


def test_the_examples_of_docstrings_run(embedded, monkeypatch, tmp_path):
    tests = [test for test in examples() if not draws(test)]
    assert len(tests) > 25
    run(tests, embedded, monkeypatch, tmp_path)


@pytest.mark.slow
def test_the_examples_that_draw_run(embedded, monkeypatch, tmp_path):
    tests = [test for test in examples() if draws(test)]
    assert len(tests) > 5
    run(tests, embedded, monkeypatch, tmp_path)


def test_every_function_at_the_root_has_an_example():
    shown = {test.name for test in examples()}
    pages = "".join(page.read_text("utf-8") for page in REFERENCE)
    functions = [name for name in px.__all__ if inspect.isfunction(getattr(px, name))]
    assert not [
        name for name in functions if f"px.{name}" not in shown and not re.search(rf">>> .*px\.{name}\(", pages)
    ]


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_reads_nothing_from_the_web(tmp_path):
    missing = [name for name in ("sphinx", "myst_nb", "sphinx_book_theme") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the extra `docs` isn't installed: {', '.join(missing)}")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(SITE), str(tmp_path)]
    build = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert build.returncode == 0, build.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]*\"", page.read_text("utf-8")
        )
        assert not loaded, f"{page.name} loads {loaded}"
