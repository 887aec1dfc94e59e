"""`pixart-fn doctor`: say what is installed and whether it draws rightly, to paste into an issue."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import click
import numpy as np

from ..backend.wheels import not_installed
from ..process.notes import ignored
from . import machine
from .console import document, result
from .importing import importing
from .verb import Computing

PROMPT, STEPS = "a red circle", 8
"""What is drawn by the embedded checkpoint with seed 0."""
MEANS = (
    ((255, 255, 255), (255, 255, 255), (255, 255, 255), (255, 255, 255)),
    ((255, 255, 255), (229, 166, 172), (231, 176, 179), (255, 255, 255)),
    ((255, 255, 255), (228, 167, 170), (234, 180, 182), (255, 255, 255)),
    ((255, 255, 255), (255, 255, 255), (255, 255, 255), (255, 255, 255)),
)
"""The mean colours of its sixteen squares."""
AWAY = 24
"""How far a mean may be from these, of 255; another arithmetic is a few away."""
ERROR = {"float32": 1e-5, "bf16-math": 1e-2}
"""How large an error of a product is right, of the largest number in it, by the precision."""


class Check(NamedTuple):
    """What was looked at, whether it is right, and in words how right or what is wrong."""

    name: str
    right: bool
    said: str


@click.command(cls=Computing)
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
def doctor(as_json: bool) -> int:
    """Say what is installed, whether its results are right, and what would be slow here.

    A product of matrices and a picture of the embedded checkpoint are computed and compared with known results. The
    exit status is 1 if one is wrong. Nothing is downloaded. You can paste the text into an issue.
    """
    with ignored():
        checks = [_checked("MindSpore", _import)]
        if checks[0].right:
            checks += [_checked("product", product), _checked("picture", picture)]
    versions = machine.versions()
    found = machine.facts() if checks[0].right else {}
    slow = machine.slow(found) if found else []
    broken = [f"{each.name}: {each.said}" for each in checks if not each.right]
    if as_json:
        listed = [each._asdict() for each in checks]
        document({"versions": versions, "machine": found, "checks": listed, "slow": slow, "broken": broken})
    else:
        _print(versions, machine.lines(found) if found else [], checks, slow)
    return 1 if broken else 0


def _print(versions: dict[str, str | None], found: list[tuple[str, str]], checks: list[Check], slow: list[str]) -> None:
    rows = [(name, version or "not installed") for name, version in versions.items()] + found
    rows += [(each.name, each.said if each.right else f"BROKEN: {each.said}") for each in checks]
    rows += [("slow here" if i == 0 else "", said) for i, said in enumerate(slow)]
    width = max(len(name) for name, _ in rows) + 2
    for name, said in rows:
        result(f"{name:<{width}}{said}")


def _checked(name: str, run: Callable[[], str]) -> Check:
    """Run a check, whose text says how right it is; whatever it raises is what is wrong."""
    try:
        return Check(name, True, run())
    except ModuleNotFoundError as error:
        return Check(name, False, not_installed(error) or str(error))
    except Exception as error:  # a broken installation may raise anything
        said = " ".join(str(error).split())
        return Check(name, False, said if isinstance(error, ValueError) else f"{type(error).__name__}: {said}")


def _import() -> str:
    from ..backend import runtime

    with importing():
        runtime.ready()
        import_module("..backend.nn", __package__)  # it sets MindSpore up as every model does
    return "imported"


def product() -> str:
    """Compare a product of matrices with NumPy's in float64; return its error in words, or raise a ValueError."""
    from mindspore import Tensor, ops

    from ..backend.precision import precision
    from ..process.lock import lock

    draw = np.random.default_rng(0)
    a, b = (draw.standard_normal(shape).astype(np.float32) for shape in ((192, 320), (320, 256)))
    with lock():
        got: Any = ops.matmul(Tensor(a), Tensor(b)).asnumpy()
    exact = a.astype(np.float64) @ b.astype(np.float64)
    error = float(np.abs(got - exact).max() / np.abs(exact).max())
    if not error <= ERROR[precision()]:
        raise ValueError(f"a product of matrices is wrong by {error:.1e} of its largest number")
    return f"right, to {error:.0e} of its largest number"


def picture() -> str:
    """Draw with the embedded checkpoint and compare; return how near it is in words, or raise a ValueError."""
    with importing():
        from ..checkpoint import load
        from ..pipeline import generate
    from .. import rng

    drawn = generate(load(), PROMPT, rng.key(0), steps=STEPS, progress=False)
    n = len(MEANS)
    means = np.asarray(drawn, np.float64).reshape(n, drawn.height // n, n, drawn.width // n, 3).mean((1, 3))
    away = float(np.abs(means - MEANS).max())
    if not away <= AWAY:
        raise ValueError(f"{PROMPT!r} of the embedded checkpoint looks wrong: a mean colour is {away:.0f} of 255 away")
    return f"right, to {away:.1f} of 255"
