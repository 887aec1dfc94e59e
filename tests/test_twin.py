"""The PyTorch twin of the embedded checkpoint's training computes what ours does: models, loss, gradients, steps."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.tolerances import assert_close

import pixart_fn as px
from pixart_fn.train import optim
from pixart_fn.train.emoji import autoencoder, text_to_image

from mindspore import Tensor, ops  # isort: skip - after pixart_fn, which silences it

pytestmark = pytest.mark.reference
torch = pytest.importorskip("torch")

TEXT = px.t5.Config(vocab_size=50, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
TRANSFORMER = px.transformer.Config(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=32,
    sample_size=8, caption_channels=32,
)  # fmt: skip
VAE = px.vae.Config(block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4, latent_channels=4)


@pytest.fixture(scope="module")
def twin():
    from reference.twin import autoencoder, models, train

    torch.manual_seed(0)
    model = train.Model.__new__(train.Model)
    torch.nn.Module.__init__(model)
    model.text_encoder = models.T5(50, width=32, head=8, heads=4, inner=48, layers=2).init()
    model.transformer = models.PixArt(4, heads=2, head=16, layers=2, text=32, sample_size=8).init()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)  # zero would hide everything before it
    vae = autoencoder.AutoencoderKL((8, 8, 16, 16), layers=1, groups=4, latent=4).init()
    return SimpleNamespace(model=model, vae=vae, train=train)


def to_tree(module) -> px.types.Tree:
    return px.tree.nest({name: Tensor.from_numpy(p.detach().numpy().copy()) for name, p in module.named_parameters()})


def both(model) -> px.types.Tree:
    return {"text_encoder": to_tree(model.text_encoder), "transformer": to_tree(model.transformer)}


def flat(tree: px.types.Tree, names: list[str]) -> np.ndarray:
    """All leaves in a row, in the order of their names within text encoder and transformer."""
    leaves = dict(px.tree.items(tree))
    return np.concatenate(
        [np.asarray(leaves[n].asnumpy() if isinstance(leaves[n], Tensor) else leaves[n]).ravel() for n in names]
    )


def example(seed: int) -> dict[str, np.ndarray]:
    g = np.random.default_rng(seed)
    mask = (np.arange(9) < g.integers(2, 9, (3, 1))).astype(np.int32)
    t = g.integers(0, 1000, 3)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    return {
        "x": g.standard_normal((3, 4, 8, 8), np.float32),
        "x0": g.standard_normal((3, 4, 8, 8), np.float32),
        "t": t.astype(np.float32),
        "weight": (np.minimum(bar[t] / (1 - bar[t]), text_to_image.SNR_MAX) + 1).astype(np.float32),
        "ids": (g.integers(3, 50, (3, 9)) * mask).astype(np.int32),
        "mask": mask,
    }


def twin_loss(twin, batch):
    x, x0, t, ids, mask = (torch.from_numpy(batch[name]) for name in ("x", "x0", "t", "ids", "mask"))
    alpha, sigma = (table[t.long()] for table in twin.train.schedule())
    return twin.train.model_loss(x0, twin.model(x, t, ids.long(), mask), alpha, sigma)


@pytest.fixture
def our_loss(monkeypatch):
    """The package's own loss, (trees, arrays) → scalar, for models of these sizes."""
    monkeypatch.setattr(text_to_image, "T5", TEXT)
    monkeypatch.setattr(text_to_image, "TRANSFORMER", TRANSFORMER)
    return lambda p, batch: text_to_image.loss(p, text_to_image.Batch(**batch), None)[0]


def test_sizes(twin):
    """The twin's models have the sizes of the package's recipe, and the names."""
    from reference.twin import autoencoder as autoencoder_

    model, train = twin.train.Model(60), twin.train
    text = dataclasses.replace(text_to_image.T5, vocab_size=60)
    for module, expected in (
        (model.text_encoder, px.t5.shapes(text)),
        (model.transformer, px.transformer.shapes(text_to_image.TRANSFORMER)),
        (autoencoder_.AutoencoderKL(**train.VAE), px.vae.shapes(autoencoder.CONFIG)),
    ):
        assert {name: tuple(p.shape) for name, p in module.named_parameters()} == expected


def test_autoencoder_loss(twin, monkeypatch):
    monkeypatch.setattr(autoencoder, "CONFIG", VAE)
    monkeypatch.setattr(px.vae, "sample", lambda _, moments: moments.mean + ops.exp(0.5 * moments.logvar) * noise)
    x, eps = (
        np.random.default_rng(i).standard_normal(s, np.float32) for i, s in enumerate([(4, 3, 32, 32), (4, 4, 4, 4)])
    )
    noise = Tensor(eps)
    twin.vae.zero_grad()
    loss = twin.train.vae_loss(twin.vae, torch.from_numpy(x), torch.from_numpy(eps))
    loss.backward()
    value, gradients = px.value_and_grad(lambda p: autoencoder.loss(p, Tensor(x), None)[0])(to_tree(twin.vae))
    assert_close(value.asnumpy(), loss.detach().numpy())
    names = [name for name, _ in twin.vae.named_parameters()]
    theirs = np.concatenate([p.grad.numpy().ravel() for p in twin.vae.parameters()])
    assert_close(flat(gradients, names), theirs, 1e-5)  # sums over pictures in another order


def test_autoencoder(twin):
    x = np.random.default_rng(3).standard_normal((2, 3, 32, 32), np.float32)
    tree = to_tree(twin.vae)
    moments = px.vae.encode(tree, VAE, Tensor(x))
    with torch.no_grad():
        mean, logvar = twin.vae.encode(torch.from_numpy(x))
        picture = twin.vae.decode(mean)
    assert_close(moments.mean.asnumpy(), mean.numpy())
    assert_close(moments.logvar.asnumpy(), logvar.numpy())
    assert_close(px.vae.decode(tree, VAE, moments.mean).asnumpy(), picture.numpy())


def test_loss_and_gradients(twin, our_loss):
    batch = example(4)
    loss = twin_loss(twin, batch)
    twin.model.zero_grad()
    loss.backward()
    value, gradients = px.value_and_grad(our_loss)(both(twin.model), {k: Tensor(v) for k, v in batch.items()})
    assert_close(value.asnumpy(), loss.detach().numpy())
    names = [name for name, _ in twin.model.named_parameters()]
    theirs = np.concatenate([p.grad.numpy().ravel() for p in twin.model.parameters()])
    assert_close(flat(gradients, names), theirs, 1e-5)  # sums over the batch in another order


def test_twenty_steps(twin, our_loss):
    ours = both(twin.model)
    rate = optim.warmup_constant(1e-3, 5)
    optimiser = optim.chain(
        optim.clip_by_global_norm(1.0),
        optim.scale_by_adam(0.9, 0.99, 1e-8),
        optim.add_decayed_weights(0.01),
        optim.scale_by_learning_rate(rate),
        optim.scale_by_name((("shared.weight", twin.train.EMBEDDING_RATE),)),
    )
    average = optim.ema(0.999)
    state, mean = optimiser.init(ours), average.init(ours)
    trainer = twin.train.Trainer(twin.model, lr=1e-3, seconds=1e9, average=0.999, warmup=5, decay=0.5)
    for step in range(20):
        batch = example(100 + step)
        trainer.update(twin_loss(twin, batch), 3)
        _, gradients = px.value_and_grad(our_loss)(ours, {k: Tensor(v) for k, v in batch.items()})
        ours, state, mean = optim.step(optimiser, ours, gradients, state, average, mean)
    names = [name for name, _ in twin.model.named_parameters()]
    for tree, theirs in ((ours, trainer.live), (mean.leaves, trainer.mean)):
        # AdamW divides by √v: where a gradient is nearly zero, its rounding becomes a step
        assert_close(flat(tree, names), np.concatenate([p.detach().numpy().ravel() for p in theirs]), 1e-4)
