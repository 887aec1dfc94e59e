"""The steps of on_gpu.py, each in a process of its own. Whatever goes wrong in one becomes a line of its results."""

from __future__ import annotations

import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 7
TOKENS, CAPTION, REAL = 32, 4096, 20
"""Tokens of the longest prompt as they are bucketed, their width, and how many are real; see bench/works.py."""


class Step:
    """What every step knows: where it writes, and the device and sizes of a rehearsal."""

    def __init__(self, name: str, home: Path, out: Path, rehearse: bool) -> None:
        self.name, self.home, self.out, self.rehearse = name, home, out, rehearse

    def say(self, **content: Any) -> None:
        write(self.out, {"step": self.name, **content})

    def attempt(self, what: str, f: Callable[[], dict[str, Any]]) -> None:
        """Say what f finds, or how it fails."""
        try:
            self.say(what=what, **f())
        except Exception as error:  # each of these is a result
            self.say(
                what=what, failed=f"{type(error).__name__}: {str(error)[:600]}", where=traceback.format_exc()[-600:]
            )

    def device(self, name: str = "GPU") -> Any:
        import pixart_fn as px

        px.device("CPU" if self.rehearse else name)
        return px


def write(out: Path, line: dict[str, Any]) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    with open(out, "a", encoding="utf-8") as file:
        file.write(text + "\n")


def run(name: str, home: Path, out: Path, rehearse: bool) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import on_gpu_models as models

    kind, _, rest = name.partition("-")
    step = Step(name, home, out, rehearse)
    if kind == "torch":
        work, _, side = rest.partition("-")
        models.theirs(step, work, int(side))
    elif kind in ("dit", "decode"):
        models.ours(step, kind, int(rest))
    else:
        {"card": card, "ops": ops_, "cpu": cpu, "embedded": embedded, "gradients": gradients, "train": train}[name](
            step
        )


def timed(f: Callable[[], Any], rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds of the first call and the median of the next ones; f waits for its result."""
    start = time.perf_counter()
    f()
    first, seconds = time.perf_counter() - start, []
    for _ in range(rounds):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > 8:
            break
    return {"first": first, "median": statistics.median(seconds), "all": seconds}


def distance(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    ours, theirs = (np.asarray(each, np.float64) for each in (ours, theirs))
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    return {"relative": float(error), "largest": float(np.abs(ours - theirs).max())}


# --- 1: what is there -------------------------------------------------------------------------------------------------


def card(step: Step) -> None:
    from pixart_fn.backend import cuda

    found, missing = cuda.driver(), cuda.missing()
    libraries = {name: str(place) for name, place in cuda.libraries().items()}
    step.say(driver=found, missing=missing, libraries=libraries, python=sys.version)
    start = time.perf_counter()
    px = step.device()
    import mindspore as ms

    ms.ops.ones((2, 2)).asnumpy()
    step.say(device=px.device(), seconds_to_first_operation=time.perf_counter() - start, mindspore=ms.__version__)


def ops_(step: Step) -> None:
    step.device()
    import mindspore as ms
    from mindspore import ops

    from pixart_fn.backend import nn, private

    draw = np.random.default_rng(0)
    n = 64 if step.rehearse else 4096
    a, b = (draw.standard_normal((n, n)).astype(np.float32) for _ in range(2))
    exact = a @ b
    for dtype, mode in (("float32", "float32"), ("float32", "tf32"), ("float16", "float32")):
        step.attempt(f"MatMul {dtype} {mode}", lambda dtype=dtype, mode=mode: product(step, a, b, exact, dtype, mode))
    x = draw.standard_normal((2, 8, 8, 64)).astype(np.float32)
    last = draw.standard_normal((32, 3, 3, 64)).astype(np.float32) / 24
    first, ones = last.transpose(0, 3, 1, 2).copy(), np.ones(64, np.float32)
    flat = x.reshape(-1, 64)
    centred = flat - flat.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-6)
    bell = flat / (1 + np.exp(-(nn.GELU[0] + nn.GELU[1] * flat**2) * flat))
    soft = np.exp(flat) / np.exp(flat).sum(1, keepdims=True)
    pixels = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), (1, 2))
    convolved = np.einsum("bhwcij,oijc->bhwo", windows, last)
    layer = ops.LayerNorm(-1, -1, 1e-6)
    works: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...], np.ndarray]] = {
        "Softmax": (ops.Softmax(-1), (flat,), soft),
        "LayerNorm": (lambda *t: layer(*t)[0], (flat, ones, 0 * ones), normal),
        "LayerNorm's variance": (lambda *t: layer(*t)[2], (flat, ones, 0 * ones), flat.var(1, keepdims=True)),
        "GeLU": (ops.GeLU(), (flat,), bell),
        "GeLUGrad of ones": (lambda t, y: private.GeLUGrad()(ops.ones_like(t), t, y), (flat, bell), slope(flat)),
        "BiasAdd": (ops.BiasAdd(), (flat, ones), flat + 1),
        "ReduceMean": (lambda t: ops.ReduceMean(True)(t, -1), (flat,), flat.mean(1, keepdims=True)),
        "broadcast": (lambda t, s: t * s, (x, x[:, :1, :1]), x * x[:, :1, :1]),
        "Conv2D NCHW": (conv(ops, "NCHW"), (x.transpose(0, 3, 1, 2).copy(), first), convolved.transpose(0, 3, 1, 2)),
        "Conv2D NHWC": (conv(ops, "NHWC"), (x, last), convolved),
        "sigmoid": (ops.sigmoid, (flat,), 1 / (1 + np.exp(-flat))),
        "rsqrt": (ops.rsqrt, (np.abs(flat) + 1,), 1 / np.sqrt(np.abs(flat) + 1)),
        "split": (lambda t: ops.split(t, 32, -1)[1], (flat,), flat[:, 32:]),
        "gather": (lambda t: ops.gather(t, ms.Tensor([3, 1], ms.int32), 0), (flat,), flat[[3, 1]]),
    }
    for name, (f, inputs, right) in works.items():
        for dtype in ("float32", "float16"):
            step.attempt(f"{name} {dtype}", lambda f=f, i=inputs, r=right, d=dtype: one(f, i, r, d))


def conv(ops: Any, layout: str) -> Callable[..., Any]:
    pad = {"pad_mode": "pad", "pad": (1, 1, 1, 1)}
    return lambda x, weight: ops.Conv2D(32, 3, **pad, data_format=layout)(x, weight)


def slope(x: np.ndarray) -> np.ndarray:
    """The derivative of GELU's tanh form."""
    inner = np.tanh(0.7978845608 * (x + 0.044715 * x**3))
    return 0.5 * (1 + inner) + 0.5 * x * (1 - inner**2) * 0.7978845608 * (1 + 3 * 0.044715 * x**2)


def one(f: Callable[..., Any], inputs: tuple[np.ndarray, ...], right: np.ndarray, dtype: str) -> dict[str, Any]:
    import mindspore as ms

    result = f(*(ms.Tensor(each).astype(getattr(ms, dtype)) for each in inputs)).asnumpy()
    return {**distance(result.reshape(right.shape), right), "gives": str(result.dtype)}


def product(step: Step, a: np.ndarray, b: np.ndarray, exact: np.ndarray, dtype: str, mode: str) -> dict[str, Any]:
    import mindspore as ms

    from pixart_fn.backend import runtime

    if not step.rehearse:
        runtime.allow_tf32(mode == "tf32")
    x, y = (ms.ops.cast(ms.Tensor(each), getattr(ms, dtype)) for each in (a, b))

    def matmul(x: Any, y: Any) -> Any:
        return ms.ops.MatMul()(x, y)

    multiply = ms.jit(matmul)
    found = distance(multiply(x, y).asnumpy(), exact)

    def several() -> None:
        for _ in range(20):
            z = multiply(x, y)
        z[:1, :1].asnumpy()

    seconds = timed(several)["median"] / 20
    return {**found, "seconds": seconds, "tflops": 2 * len(a) ** 3 / seconds / 1e12}


# --- 2: the embedded model --------------------------------------------------------------------------------------------


def picture(px: Any, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    params = px.load(dtype=dtype)
    text = px.encode_prompt(params, ["a cat", "a blue square and a yellow star"])
    latents = px.sample_latents(params, text, px.key(0), progress=False)
    return px.decode_latents(params, latents), latents.asnumpy()


def cpu(step: Step) -> None:
    px = step.device("CPU")
    pixels, latents = picture(px, "float32")
    np.savez(step.home / "cpu.npz", pixels=pixels, latents=latents)
    step.say(shape=pixels.shape)


def embedded(step: Step) -> None:
    px = step.device()
    right = np.load(step.home / "cpu.npz")
    for dtype, mode in (("float32", "float32"), ("float32", "tf32"), ("float16", "float32")):

        def compare(dtype: str = dtype, mode: str = mode) -> dict[str, Any]:
            if not step.rehearse:
                px.precision(mode)
            pixels, latents = picture(px, dtype)
            apart = {"latents": distance(latents, right["latents"]), "pixels": distance(pixels, right["pixels"])}
            step.say(what=f"picture {dtype} {mode}", **apart)
            return {"time": timed(lambda: picture(px, dtype), 2)}

        step.attempt(f"picture {dtype} {mode}", compare)


def gradients(step: Step) -> None:
    step.device()
    from helpers import compare
    from reference.case import load

    for name, scenario in (("transformer", "apply"), ("transformer", "three_steps"), ("vae", "decode")):

        def worst(name: str = name, scenario: str = scenario) -> dict[str, Any]:
            errors = compare.gradient_errors(f"gradients_{name}", load(f"gradients_{name}"), scenario)
            leaf = max(errors, key=errors.__getitem__)
            return {"worst": errors[leaf], "leaf": leaf, "tolerance": compare.GRADIENT}

        step.attempt(f"gradients {name} {scenario}", worst)


# --- 3: models of released size are in on_gpu_models.py ---------------------------------------------------------------

# --- 4: training ------------------------------------------------------------------------------------------------------


def train(step: Step) -> None:
    """A donated step of PixArt-XL/2 at 256 px on 16 pictures."""
    step.device()
    from tests.bench import training

    config = {"sample_size": training.SIDE}
    if step.rehearse:
        config |= {
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 2,
            "cross_attention_dim": 16,
            "caption_channels": 64,
        }
    n, width = (2, 64) if step.rehearse else (16, CAPTION)

    def measure() -> dict[str, Any]:
        one = training.ours(config, training.pictures(n, TOKENS, width), recompute=True)
        return {"work": f"train-256-batch-{n}", "dtype": "float32", "side": "ours", "gib": None, **timed(one, 3)}

    step.attempt("float32", measure)
