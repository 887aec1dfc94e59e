"""Short draws of a tiny pipeline, and a count of what they call."""

from __future__ import annotations

import pixart_fn as px
from pixart_fn import transformer
from pixart_fn.models import t5_numpy, transformer_numpy, vae_numpy

STEPS = 3  # the second is the first of second order
KEY = px.key(7)
ALONE = 1e-5
"""A picture alone against the same in a batch: products of other sizes add in another order."""


def draw(params, prompt="a cute cat", key=KEY, **options):
    return px.generate(params, prompt, key, **{"steps": STEPS, "progress": False, **options})


def latents(params, prompt="a cute cat", key=KEY, **options):
    return draw(params, prompt, key, output="latents", **options).asnumpy()


def counted(monkeypatch, module, name):
    """The calls of a function of a module, as they come: (args, kwargs)."""
    calls, f = [], getattr(module, name)

    def count(*args, **kwargs):
        calls.append((args, kwargs))
        return f(*args, **kwargs)

    monkeypatch.setattr(module, name, count)
    return calls


def evaluations(monkeypatch):
    """The transformer's evaluations, MindSpore's and NumPy's, as they come: (pictures, blocks that are perturbed)."""
    calls = []

    def counting(evaluate):
        def count(*args, **kwargs):
            calls.append((len(args[2]), kwargs["ways"].perturbed if "ways" in kwargs else ()))
            return evaluate(*args, **kwargs)

        return count

    for module in (transformer, transformer_numpy):
        monkeypatch.setattr(module, "evaluate", counting(module.evaluate))
    return calls


def without_numpy(monkeypatch):
    """Let MindSpore evaluate the small models too."""
    for module in (t5_numpy, transformer_numpy, vae_numpy):
        monkeypatch.setattr(module, "fits", lambda *_: False)
