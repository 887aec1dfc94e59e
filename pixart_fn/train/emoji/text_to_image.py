"""Train the text encoder and the transformer together: python -m pixart_fn.train.emoji.text_to_image --help

AdamW, a moving average of the weights, captions dropped for guidance. Resumable; --save writes the pipeline in
diffusers layout. The network predicts x0, and its loss is the weighted ε-loss that `loss` derives: at t = 999 an error
in ε is multiplied by 160 in x0, so that a small model would have to copy noise to three digits before the text could
matter, and with 64 numbers per patch it would spend its width on passing noise through (arXiv:2511.13720).

The sizes are those of the embedded checkpoint, which `--start weights/emoji` goes on from.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece
from mindspore import Tensor
from numpy.typing import NDArray

from ... import checkpoint, rng, tree
from ... import schedule as schedule_
from ...backend.runtime import settle_on_cpu
from ...files import atomic, reading
from ...files.folder import check
from ...models import t5, tokenizer, transformer
from ...params import Call, Configs, Params
from ...types import Key, Tree
from .. import loop, optim, state, step
from ..batch import Metrics
from . import autoencoder, latents
from .command import run

LENGTH = 24  # tokens of a training caption, </s> included
DROPOUT = 0.1
SNR_MAX = 5.0
EMBEDDING_RATE = 3.0  # a word is met once in many steps, so its row moves too little at the others' rate
TIME_POWER = 0.5  # below 1: more examples where noise is strong and the text decides
T5 = t5.Config(vocab_size=4096, d_model=256, d_kv=64, d_ff=512, num_layers=3, num_heads=4)
"""A vocabulary that is trained on fewer words is smaller, and the text encoder with it."""
TRANSFORMER = transformer.Config(
    num_attention_heads=5,
    attention_head_dim=64,
    in_channels=16,
    out_channels=16,
    num_layers=8,
    cross_attention_dim=320,
    sample_size=16,
    patch_size=2,
    caption_channels=256,
)
CALL = Call(interval=(500, 1000))
"""Without guidance at the last steps, pictures are cleaner and take fewer evaluations."""
SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "sample",
    "solver_order": 2,
    "solver_type": "midpoint",
    "timestep_spacing": "linspace",
}


class Batch(NamedTuple):
    """x_t and x0 (B, C, h, w), t (B,), the loss's weights (B,), ids and mask (B, L)."""

    x: Tensor
    x0: Tensor
    t: Tensor
    weight: Tensor
    ids: Tensor
    mask: Tensor


class Dataset(NamedTuple):
    """Latents of unit variance (N, C, h, w) and the token ids and masks of their captions, (N, K, L)."""

    latents: NDArray[np.float32]
    ids: NDArray[np.int32]
    mask: NDArray[np.int32]


def vocabulary(captions: list[str], size: int) -> tokenizer.Tokenizer:
    """Train a SentencePiece model on captions, with T5's special pieces and ids.

    Args:
        captions: cleaned, as `tokenizer.clean` gives them.
        size: of the vocabulary, in pieces; a smaller one where the captions don't hold as many.
    Returns:
        The tokenizer.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(captions), model_writer=model, vocab_size=size, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>",
        character_coverage=1.0, hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return tokenizer.Tokenizer(model.getvalue(), extra_ids=0)


def dataset(encoded: latents.Encoded, words: tokenizer.Tokenizer) -> Dataset:
    """Turn every caption into ids.

    Args:
        encoded: what `latents.load` reads.
        words: the tokenizer.
    Returns:
        Latents, ids and masks, with LENGTH tokens a caption.
    """
    captions = [tokenizer.clean(caption) for row in encoded.captions for caption in row]
    ids, mask = tokenizer.encode(words, captions, LENGTH)
    shape = (len(encoded.captions), -1, LENGTH)
    return Dataset(encoded.latents, ids.reshape(shape), mask.reshape(shape))


def draw(key: Key, data: Dataset, schedule: schedule_.Schedule, n: int) -> Batch:
    """Draw n noisy examples: a function of the key alone.

    Args:
        key: uint64 (2,).
        data: what `dataset` makes.
        schedule: of the noise.
        n: examples, at least 1.
    Returns:
        The batch, of Tensors.
    """
    generator = np.random.default_rng(key)
    rows = generator.integers(len(data.latents), size=n)
    said = generator.integers(data.ids.shape[1], size=n)
    ids, mask = data.ids[rows, said].copy(), data.mask[rows, said].copy()
    dropped = generator.random(n) < DROPOUT
    ids[dropped], mask[dropped] = 0, 0
    ids[dropped, 0] = mask[dropped, 0] = 1  # the empty caption is one </s>
    # one in each n-th of [0, 1): the same distribution, less noise in the gradient
    u = (generator.permutation(n) + generator.random(n)) / n
    t = np.floor(schedule.steps * u**TIME_POWER).clip(0, schedule.steps - 1)
    alpha, sigma = (np.asarray(f(t)).reshape(-1, 1, 1, 1) for f in (schedule.alpha, schedule.sigma))
    x0 = data.latents[rows]
    eps = generator.standard_normal(x0.shape, np.float32)
    weight = weighting((alpha / sigma).ravel() ** 2)
    floats = (alpha * x0 + sigma * eps, x0, t, weight)
    return Batch._make(Tensor.from_numpy(array) for array in (*(a.astype(np.float32) for a in floats), ids, mask))


def weighting(snr: NDArray[np.float64]) -> NDArray[np.float64]:
    """min(SNR, 5) + 1, of any shape."""
    weights: NDArray[np.float64] = np.minimum(snr, SNR_MAX) + 1.0
    return weights


def loss(p: Tree, batch: Batch, key: Key) -> tuple[Tensor, Metrics]:
    """mean w(t) (x̂0 - x0)² with w = min(SNR, 5) + 1.

    As ε̂ - ε = -α/σ (x̂0 - x0) this is PixArt's ε-loss weighted by w/SNR: more where noise is strong and the text
    decides, less where it is weak and details would dominate (min-SNR weights, arXiv:2303.09556).

    Args:
        p: {"text_encoder": tree, "transformer": tree}, of float32 Tensors.
        batch: what `draw` makes.
        key: unused, since the batch holds its noise.
    Returns:
        Scalar Tensor, and no metrics.
    """
    text = t5.encode(p["text_encoder"], text_encoder(p["text_encoder"]), batch.ids, batch.mask)
    error = transformer.apply(p["transformer"], TRANSFORMER, batch.x, batch.t, text, batch.mask) - batch.x0
    return ((error * error).mean((1, 2, 3)) * batch.weight).mean(), {}


def text_encoder(p: Tree) -> t5.Config:
    """The configuration of a text encoder's weights, whose vocabulary is that of their captions.

    Args:
        p: the text encoder's tree.
    Returns:
        T5 with their vocabulary's size.
    """
    return dataclasses.replace(T5, vocab_size=p["shared"]["weight"].shape[0])


def init(key: Key, vocabulary_size: int) -> Tree:
    """Make the first weights of both models, so that the text counts from the first step.

    PixArt starts from a trained class-conditional model, which it doesn't disturb: attn2.to_out is zero. Without one to
    preserve, the first block still hardly heeded the text after 2,050 steps. So it is 1/√fan-in here, and the caption
    projection's last layer is 2.5 times as large, for what GELU takes away.

    Args:
        key: uint64 (2,).
        vocabulary_size: rows of the words' table.
    Returns:
        {"text_encoder": tree, "transformer": tree}, of float32 Tensors.
    """
    keys = rng.split(key, 3)
    flat = dict(tree.items(transformer.init(keys[1], TRANSFORMER)))
    for i, (name, leaf) in enumerate(flat.items()):
        if name.endswith("attn2.to_out.0.weight"):
            noise = rng.normal(rng.fold_in(keys[2], i), leaf.shape)
            flat[name] = Tensor.from_numpy(noise * np.float32(leaf.shape[1] ** -0.5))
        elif name == "caption_projection.linear_2.weight":
            flat[name] = leaf * 2.5
    words = dataclasses.replace(T5, vocab_size=vocabulary_size)
    return {"text_encoder": t5.init(keys[0], words), "transformer": tree.nest(flat)}


def pipeline(p: Tree, vae_tree: Tree, words: tokenizer.Tokenizer) -> Params:
    """Put together what `generate` needs.

    Args:
        p: {"text_encoder": tree, "transformer": tree}.
        vae_tree: the autoencoder's weights.
        words: the tokenizer.
    Returns:
        The params.
    """
    return Params(
        text_encoder=p["text_encoder"],
        transformer=p["transformer"],
        vae=vae_tree,
        config=Configs(
            text_encoder(p["text_encoder"]), TRANSFORMER, autoencoder.CONFIG, SCHEDULER, "PixArtAlphaPipeline", CALL
        ),
        tokenizer=words,
    )


def main() -> None:
    """The command: train from where --out stands, and write the pipeline where --save asks for it."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.save:
        check(Path(arguments.save))
    settle_on_cpu()
    out, encoded = Path(arguments.out), latents.load(arguments.latents)
    vae_tree = autoencoder.read(arguments.autoencoder)
    start = checkpoint.load(arguments.start, vae=None) if arguments.start else None
    if start is not None and not _fits(start.config):
        parser.error(f"--start must hold models of the size of T5 and TRANSFORMER in this module, got {start}")
    out.mkdir(parents=True, exist_ok=True)
    words = _words(out / "spiece.model", encoded, start)
    first = init(rng.key(0), words.size) if start is None else _models(start)
    data, schedule, key = dataset(encoded, words), schedule_.from_betas(schedule_.linear()), rng.key(2)
    optimiser, average = _optimiser(arguments.lr, arguments.steps), optim.ema(0.999)
    begin = state.init(first, optimiser, rng.key(3), ema=average)
    last = loop.run(
        step.make(loss, optimiser, ema=average), begin,
        lambda i: draw(rng.fold_in(key, i), data, schedule, arguments.batch), out,
        steps=arguments.steps, minutes=arguments.minutes,
        identity={name: getattr(arguments, name) for name in ("steps", "batch", "lr")},
    )  # fmt: skip
    if arguments.save:
        made = pipeline(last.average, vae_tree, words)
        checkpoint.save(made, arguments.save, dtype="float16")


def _fits(config: Configs) -> bool:
    """Whether a pipeline's models have the sizes of this recipe, whatever its vocabulary."""
    text = config.text_encoder
    return (text and dataclasses.replace(text, vocab_size=T5.vocab_size), config.transformer) == (T5, TRANSFORMER)


def _models(params: Params) -> Tree:
    return {"text_encoder": params.text_encoder, "transformer": params.transformer}


def _optimiser(lr: float, steps: int) -> optim.Transformation:
    """AdamW with a higher rate for the words, clipped."""
    rate = optim.warmup_stable_decay(lr, steps, decay=0.5)
    return optim.chain(
        optim.clip_by_global_norm(1.0),
        optim.scale_by_adam(0.9, 0.99, 1e-8),
        optim.add_decayed_weights(0.01),
        optim.scale_by_learning_rate(rate),
        optim.scale_by_name((("shared.weight", EMBEDDING_RATE),)),
    )


def _words(file: Path, encoded: latents.Encoded, start: Params | None) -> tokenizer.Tokenizer:
    """The vocabulary of this run: the file's, or else that of --start or one that is trained, which the file keeps."""
    if not file.exists():
        captions = [tokenizer.clean(caption) for row in encoded.captions for caption in row]
        made = (start and start.tokenizer) or vocabulary(captions, T5.vocab_size)
        atomic.write(file, lambda temporary: temporary.write_bytes(made.model))
    return tokenizer.Tokenizer(reading.content(file), extra_ids=0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", required=True, help="what pixart_fn.train.emoji.latents wrote")
    parser.add_argument(
        "--autoencoder", required=True, help="what pixart_fn.train.emoji.autoencoder --save wrote, or a pipeline"
    )
    parser.add_argument("--out", required=True, help="where the resumable state and the vocabulary are kept")
    parser.add_argument("--save", help="write the pipeline here at the end")
    parser.add_argument("--start", help="the folder of a saved pipeline to begin with where --out is empty")
    parser.add_argument("--steps", type=int, default=13600)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    return parser


if __name__ == "__main__":
    run(main)
