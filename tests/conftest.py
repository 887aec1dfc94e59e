"""Hypothesis draws the same examples everywhere; PIXART_FN_EXAMPLES asks for more of them."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "pixart_fn",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=int(os.environ.get("PIXART_FN_EXAMPLES", "25")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pixart_fn")
