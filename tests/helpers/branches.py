"""A pair of branches to guide, without a model."""

from __future__ import annotations

import numpy as np

from pixart_fn import guidance


def pair(x, t):
    return np.sin(3 * x) + t, np.cos(2 * x)


def conditional(x, t):
    return pair(x, t)[0]


def guide(how, pair=pair, **options):
    """A guided denoiser of a pair, whose conditional one is the pair's."""
    return guidance.guided(how, lambda x, t: pair(x, t)[0], pair, **options)
