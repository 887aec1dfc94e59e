"""Large pictures of a batch go through the VAE one by one."""

from __future__ import annotations

import numpy as np
import tiny
from tolerances import assert_close

from pixart_fn import rng, vae

import mindspore as ms  # isort: skip - after pixart_fn, which silences it


def test_large_pictures_go_one_by_one_and_come_out_the_same(monkeypatch):
    params = tiny.params()
    x = ms.Tensor(np.tanh(rng.normal(rng.key(0), (2, 3, 16, 24))))
    z = ms.Tensor(rng.normal(rng.key(1), (2, 4, 8, 12)))
    together = vae.encode(params.vae, tiny.VAE, x), vae.decode(params.vae, tiny.VAE, z)
    rows, conv = [], vae._conv

    def watched(p, x):
        rows.append(x.shape[0])
        return conv(p, x)

    monkeypatch.setattr(vae, "LARGE", 16 * 24)
    monkeypatch.setattr(vae, "_conv", watched)
    apart = vae.encode(params.vae, tiny.VAE, x), vae.decode(params.vae, tiny.VAE, z)
    assert rows and set(rows) == {1}
    for ours, theirs in zip((*apart[0], apart[1]), (*together[0], together[1]), strict=True):
        assert_close(ours.asnumpy(), theirs.asnumpy(), 1e-5)
