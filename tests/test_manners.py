"""What a guest doesn't do: change MindSpore's settings, fill the terminal, leave files behind."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import tiny

import pixart_fn as px

PACKAGE = Path(px.__file__).parent
SETTINGS = ("mode", "device_target", "device_id", "runtime_num_threads", "inter_op_parallel_num", "deterministic")
ALIASES = {"Denoiser", "Key", "VarianceDenoiser"}  # of types, which have no place for a docstring
DRAW = """
params = px.load(sys.argv[1])
for steps in (1, 2):
    picture = px.generate(params, "a cute cat", px.key(0), steps=steps, progress=False)
"""
DIFFERENTIATE = """
f = lambda p: px.decode_latents(params.replace(vae=p), x).mean()
x = px.sample_latents(params, px.encode_prompt(params, "a cat"), px.key(0), steps=1, progress=False)
px.value_and_grad(f)(params.vae)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "pipeline"
    px.save(tiny.params(), path)
    return path


def python(source, *arguments, cwd=None, **environment):
    """Run a source in a new process whose environment doesn't mention MindSpore's log."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("GLOG_v", "MS_OM_PATH")}
    path = {"PYTHONPATH": str(PACKAGE.parent)}
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**inherited, **path, **environment}, check=True
    )


@pytest.mark.slow
def test_the_users_mindspore_stays_as_it_was_and_nothing_is_said_or_left(model, tmp_path):
    source = f"""
import json, os, sys
import mindspore as ms
ms.set_device("CPU")
ms.set_deterministic(True)
def settings():
    log = ms.get_level()
    return [dict(os.environ), [ms.get_context(name) for name in {SETTINGS}], log, os.getcwd()]
before = settings()
import pixart_fn as px
after = settings()
{DRAW}{DIFFERENTIATE}
print(json.dumps([before, after, settings()]))
"""
    process = python(source, model, cwd=tmp_path)
    before, imported, drawn = json.loads(process.stdout)
    assert "ON" in before[1]
    assert imported == drawn
    assert imported[0].pop("GLOG_v") == "3"  # for whatever hasn't read it yet
    assert Path(imported[0].pop("MS_OM_PATH")).is_absolute()  # where a failed compilation leaves its rank_0/
    assert imported == before
    assert process.stderr == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_mindspore_is_silent_by_default_whichever_module_comes_first(model, tmp_path):
    source = f"""
import pixart_fn.models.vae
import sys, mindspore as ms, pixart_fn as px
print(ms.get_level())
{DRAW}
"""
    process = python(source, model, cwd=tmp_path)
    assert (process.stdout, process.stderr) == ("3\n", "")
    assert not list(tmp_path.iterdir())


def test_the_users_log_level_wins():
    source = "import pixart_fn, mindspore as ms, os; print(ms.get_level(), os.environ['GLOG_v'])"
    assert python(source, GLOG_v="1").stdout.splitlines()[-1] == "1 1"


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_the_public_names_are_few_and_documented():
    assert len(px.__all__) == len(set(px.__all__)) <= 52
    assert px.__all__ == sorted(px.__all__)
    named = {name: getattr(px, name) for name in px.__all__ if name not in ALIASES}
    assert not [name for name, value in named.items() if not inspect.getdoc(value)]
    assert px.__version__.startswith("0.2.")


def test_jit_and_vmap_around_our_functions_say_so_and_leave_nothing_behind(tmp_path):
    """MindSpore refuses by name what carries its mark; what it prints after the sentence is its own."""
    source = """
import json, sys
import numpy as np
import mindspore as ms
import pixart_fn as px
params, z = px.load(), ms.Tensor(np.zeros((1, 16, 16, 16), np.float32))
px.decode_latents
def stage(z):
    return px.decode_latents(params, z)
def network(z):
    return px.vae.decode(params.vae, params.config.vae, z)
said = []
for call in (lambda: ms.jit(stage)(z), lambda: ms.vmap(stage)(z), lambda: ms.jit(network)(z)):
    try:
        call()
    except Exception as error:
        said.append(str(error).splitlines()[0])
print(json.dumps(said))
"""
    file = tmp_path / "user.py"
    file.write_text(source, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(px.__file__).parents[1]), "MS_OM_PATH": str(tmp_path / "om")}
    run = subprocess.run(
        [sys.executable, str(file)], cwd=tmp_path, capture_output=True, text=True, env=environment, check=True
    )
    said = json.loads(run.stdout.splitlines()[-1])
    names = ["pixart_fn.stages.decode_latents", "pixart_fn.stages.decode_latents", "pixart_fn.models.vae.decode"]
    assert all(f"'{name}' is not supported in" in line for name, line in zip(names, said, strict=True)), said
    assert not (tmp_path / "rank_0").exists()
