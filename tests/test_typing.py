"""A user's script passes `mypy --strict`, and public signatures say what they take."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pixart_fn as px

pytestmark = pytest.mark.slow

SCRIPT = """
import numpy as np
from mindspore import Tensor

import pixart_fn as px

params: px.Params = px.load()
key: px.Key = px.key(0)
image = px.generate(params, "a cute cat", key)
image.save("cat.png")
px.save_picture(image, "cat.png", prompt="a cute cat", seed=0)
images = px.generate(params, ["a cat", "a dog"], key, solver="heun", guidance=[4.5, 3.0])
sizes = [each.size for each in images]
pixels = px.generate(params, "a cute cat", key, output="numpy", steps=4)
mean = float(pixels.mean())
latents = px.generate(params, "a cute cat", key, output="latents", on_step=lambda info: print(info.t))
text: px.Text = px.encode_prompt(params, ["a cute cat"])
schedule, make_grid, solver, wrap = px.solvers.from_config(params.config.scheduler)
grid: px.Grid = make_grid(20)
denoise: px.Denoiser = px.text_denoiser(params, text, px.encode_prompt(params, ""), guidance=4.5)
x = px.noise(params, key)


def half(x_t: px.types.Array, t: float) -> px.types.Array:
    return denoise(x_t, t) * 0.5


def red(x: Tensor) -> Tensor:
    mean: Tensor = px.decode_latents(params, px.sample(key, half, px.solvers.dpmpp_2m(), grid, x))[..., 0].mean()
    return mean


def loss(tree: px.types.Tree, t: float) -> Tensor:
    out: Tensor = px.sample_latents(params.replace(transformer=tree), text, key, steps=2).mean() * t
    return out


value, gradient = px.value_and_grad(red)(x)
_, slopes = px.value_and_grad(loss)(params.transformer, 0.5)
moved = px.tree.map(lambda p, g: p - 0.1 * g, params.transformer, slopes)
for info in px.iterate(key, denoise, "ddim", grid, x):
    print(info.t, info.evaluations)
z = px.encode_image(params, np.zeros((1, 64, 64, 3), np.float32))
px.save(params.replace(transformer=moved), "mine", dtype="float16")
guided: px.Denoiser = px.guidance.compose(denoise, [(denoise, 2.5)])
how = px.Guidance(scale=lambda t: 1 + t / 500, interval=(200, 800), rescale=0.7)
pictures = px.generate(params, ["a cat"], key, guidance=how)
learned: px.VarianceDenoiser = px.text_variance_denoiser(params, text, guidance=1)
clipped: px.VarianceDenoiser = px.guidance.clip(learned, 3.0)
z = px.sample(key, clipped, px.solvers.ddpm("learned_range"), grid, x)
wrapped: px.Denoiser = wrap(denoise)
kept: px.VarianceDenoiser = wrap(learned)
mine: px.Solver = px.solvers.named("ddim")
steered = px.controlnet.control(params, px.controlnet.load("edges"), image, scale=0.5, interval=(200, 1000))
image = px.generate(params, "a cute cat", key, controls=steered)
steered_x0: px.Denoiser = px.text_denoiser(params, text, guidance=1, controls=[steered, steered])
"""
WRONG = {
    'px.generate(params, "a cat", key, output="numpy").save("cat.png")': "has no attribute",
    'px.generate(params, ["a cat"], key).save("cat.png")': "has no attribute",
    'px.generate(params, "a cat", key, seed=3)': "No overload variant",
    'px.generate(params, "a cat", key, steps="20")': "No overload variant",
    "px.decode_latents(params, latents, tiles=64)": "Unexpected keyword argument",
    'px.generate(params, "a cat", key, controls=image)': "No overload variant",
    "px.Guidance(4.5, rescale=(0.7, 0.8))": "incompatible type",
    "px.text_denoiser(params, text, guidance=1).scale": "has no attribute",
    "px.sample(key, denoise, solver, [999, 500], x)": "incompatible type",
}
ROOT = Path(px.__file__).parents[1]


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """The package's own settings, which are strict, and its own cache, since reading NumPy takes most of the time."""
    folder = tmp_path_factory.mktemp("typed")
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml"]
    command += ["--cache-dir", ROOT / ".mypy_cache", "script.py"]

    def run(source: str) -> list[str]:
        (folder / "script.py").write_text(source, "utf-8")
        environment = {**os.environ, "MYPYPATH": str(ROOT)}
        lines = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment).stdout
        return [line for line in lines.splitlines() if line.startswith("script.py") and " error: " in line]

    return run


def test_a_users_script_is_typed_strictly(mypy):
    assert mypy(SCRIPT) == []


def test_what_is_wrong_is_found(mypy):
    start = SCRIPT.count("\n") + 1
    found = mypy(SCRIPT + "\n".join(WRONG))
    for line, sentence in enumerate(WRONG.values(), start):
        assert [each for each in found if each.startswith(f"script.py:{line}:") and sentence in each], (line, found)
    assert {int(each.split(":")[1]) for each in found} == set(range(start, start + len(WRONG)))


def public_functions():
    """Every function that a user meets under `px.`."""
    for name in px.__all__:
        member = getattr(px, name)
        if inspect.isfunction(member):
            yield f"px.{name}", member
        elif inspect.ismodule(member) and member is not px.train:
            for inner in getattr(member, "__all__", vars(member)):
                function = getattr(member, inner)
                own = inspect.isfunction(function) and function.__module__.startswith(member.__name__)
                if own and not inner.startswith("_"):
                    yield f"px.{name}.{inner}", function


def test_no_public_function_takes_or_gives_anything():
    functions = dict(public_functions())
    assert {"px.generate", "px.tree.map", "px.solvers.heun", "px.vae.encode"} <= functions.keys()
    for name, function in functions.items():
        for parameter, annotation in inspect.get_annotations(function).items():
            assert "Any" not in str(annotation), f"{name}: {parameter} is {annotation}"
        missing = [p for p in inspect.signature(function).parameters if p not in inspect.get_annotations(function)]
        assert not missing and "return" in inspect.get_annotations(function), f"{name}: {missing} have no annotation"
