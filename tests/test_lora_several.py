"""Adapters of several forms and tools at once: merged, swapped without a compilation, taken off, taken elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny, trees
from helpers.adapter_names import FORMS
from helpers.adapters import KEY
from helpers.tolerances import assert_close
from safetensors.numpy import load_file, save_file

from pixart_fn import tree
from pixart_fn.backend import jit
from pixart_fn.checkpoint import lora
from pixart_fn.models import transformer

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

EVERY = (*lora.AUTHORS, "SelfAttention.q", "wo")


def made(seed: int, **settings) -> lora.Adapter:
    """An adapter of both models with numbers in it, the convolution's among them."""
    adapter = lora.init(KEY, tiny.params(), lora.Config(**{"rank": 2, "alpha": 3.0, "targets": EVERY, **settings}))

    def drawn(name, leaf):
        noise = trees.normal(sum(name.encode()) + seed, *leaf.shape)
        return ms.Tensor(np.abs(noise) + 0.5 if "magnitude" in name else 0.3 * noise)

    return tree.map_with_path(drawn, adapter)


def of_lycoris(tmp_path) -> lora.Adapter:
    """LoHa on the convolution, LoKr on a linear of T5, and a whole difference on one of the transformer."""
    loha = {"hada_w1_a": (32, 2), "hada_w1_b": (2, 16), "hada_w2_a": (32, 2), "hada_w2_b": (2, 16), "alpha": ()}
    lokr = {"lokr_w1": (4, 4), "lokr_w2": (8, 8)}
    modules = {
        "lora_unet_x_embedder_proj": loha,
        "lora_te1_encoder_block_0_layer_0_SelfAttention_q": lokr,
        "lora_unet_proj_out": {"diff": (32, 32)},
    }
    file = {
        f"{module}.{what}": np.abs(trees.normal(len(what), *shape))
        if what == "alpha"
        else trees.normal(len(module), *shape)
        for module, shapes in modules.items()
        for what, shape in shapes.items()
    }
    save_file({name: np.asarray(leaf, np.float32) for name, leaf in file.items()}, tmp_path / "lycoris.safetensors")
    return lora.load(tmp_path / "lycoris.safetensors")


def test_a_mixture_is_the_sum_of_what_each_changes(tmp_path):
    p = tiny.params()
    lora.save(made(1), tmp_path / "kohya.safetensors", layout="kohya")
    adapters = [
        lora.load(tmp_path / "kohya.safetensors"),
        of_lycoris(tmp_path),
        made(2, dora=True),
        made(3, rslora=True),
    ]
    weights = [0.7, 0.3, 1.0, -0.5]
    plain, found = trees.numbers(p), trees.numbers(lora.merge(p, adapters, weights))
    each = [trees.numbers(lora.merge(p, *one)) for one in zip(adapters, weights, strict=True)]
    changed = 0
    for name, leaf in plain.items():
        changes = [leaf_ - leaf.astype(np.float64) for leaf_ in (one[name] for one in each)]
        assert_close(found[name], leaf + sum(changes))
        changed += any(change.any() for change in changes)
    assert changed == len({path.rpartition(".lora_")[0] for path in tree.paths(adapters[0].weights)})
    for path in ("transformer.pos_embed.proj.weight", "text_encoder.encoder.block.0.layer.0.SelfAttention.q.weight"):
        assert all((one[path] != plain[path]).any() for one in each)
    taken = [adapters[i] for i in (0, 1, 3)]
    merged = lora.merge(p, taken, [0.7, 0.3, -0.5])
    back = trees.numbers(lora.unmerge(merged, taken, [0.7, 0.3, -0.5]))
    sizes = trees.numbers(merged)
    assert all(np.abs(back[name] - leaf).max() <= 2e-7 * np.abs(sizes[name]).max() for name, leaf in plain.items())


def test_a_swap_compiles_nothing(tmp_path):
    p = tiny.params()
    x, t = ms.Tensor(trees.normal(1, 1, 4, 8, 8)), ms.Tensor(np.float32([500]))
    text, mask = ms.Tensor(trees.normal(2, 1, 5, 32)), ms.Tensor(np.ones((1, 5), np.int32))

    def drawn(p):
        return transformer.apply(p.transformer, p.config.transformer, x, t, text, mask).asnumpy()

    first, before = drawn(p), jit.compilations()
    adapters = [made(1), of_lycoris(tmp_path), made(2, dora=True)]
    for swapped in (lora.merge(p, adapters[0]), lora.merge(p, adapters, [0.7, 0.3, 1]), lora.apply(p, adapters[1])):
        assert np.abs(drawn(swapped) - first).max() > 0.01
    np.testing.assert_array_equal(drawn(p), first)
    assert jit.compilations() == before


@pytest.mark.parametrize(("layout", "form"), [("kohya", "OneTrainer"), ("comfyui", "ComfyUI, diffusers' names")])
@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True}, {"rank_pattern": {"proj": 3}}], ids=str)
def test_what_is_saved_for_others_has_their_names_and_their_scale(tmp_path, settings, layout, form):
    p, adapter = tiny.params(), made(1, **settings)
    lora.save(adapter, tmp_path / "a.safetensors", layout=layout)
    file, own = load_file(tmp_path / "a.safetensors"), FORMS[form]
    ours, expected = trees.numbers(adapter.weights), {}
    for module in {path.rpartition(".lora_")[0] for path in ours}:
        part, _, name = module.partition(".")
        A, B = (ours[f"{module}.lora_{what}.weight"] for what in "AB")
        for what, leaf in {"A": A, "B": B, "alpha": np.float32(adapter.config.scale_at(module) * len(A))}.items():
            np.testing.assert_array_equal(file.pop(own.name(part, name, what)), leaf)
        if adapter.config.dora:
            lengths = file.pop(own.name(part, name, "lengths"))
            assert lengths.shape == (B.shape[0], *([1] * (A.ndim - 1)))
            np.testing.assert_array_equal(lengths.ravel(), ours[f"{module}.lora_magnitude_vector.weight"].ravel())
        expected[f"{module}.weight"] = None
    assert not file and len(expected) > 20
    ours = trees.numbers(lora.merge(p, adapter))
    for name, leaf in trees.numbers(lora.merge(p, lora.load(tmp_path / "a.safetensors"))).items():
        assert_close(leaf, ours[name], 1e-7)  # float32's alpha of rsLoRA
    bare = adapter.replace(weights=adapter.weights["text_encoder"])
    lora.save(bare, tmp_path / "te", layout="kohya")
    assert all(name.startswith("lora_te_encoder_block_") for name in load_file(tmp_path / "te" / lora.DIFFUSERS))
