"""Put the weights of `train` into a pipeline's folder: python -m tests.reference.twin.export --help"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from mindspore import Tensor

import pixart_fn as px
from pixart_fn.models import tokenizer
from pixart_fn.params import Call, Configs, Params
from pixart_fn.train.emoji.text_to_image import SCHEDULER
from pixart_fn.types import Tree

from . import train
from .train import TEXT, TRANSFORMER, VAE

CALL = Call(interval=(500, 1000))
"""Without guidance at the last steps, pictures are cleaner and take fewer evaluations."""


def configs(vocabulary: int) -> Configs:
    """The configurations of the twin's models."""
    text = px.t5.Config(
        vocab_size=vocabulary, d_model=TEXT["width"], d_kv=TEXT["head"], d_ff=TEXT["inner"],
        num_layers=TEXT["layers"], num_heads=TEXT["heads"],
    )  # fmt: skip
    transformer = px.transformer.Config(
        num_attention_heads=TRANSFORMER["heads"], attention_head_dim=TRANSFORMER["head"],
        in_channels=TRANSFORMER["channels"], out_channels=TRANSFORMER["channels"], num_layers=TRANSFORMER["layers"],
        cross_attention_dim=TRANSFORMER["heads"] * TRANSFORMER["head"], sample_size=TRANSFORMER["sample_size"],
        patch_size=2, caption_channels=TRANSFORMER["text"],
    )  # fmt: skip
    vae = px.vae.Config(
        block_out_channels=VAE["widths"], layers_per_block=VAE["layers"], norm_num_groups=VAE["groups"],
        latent_channels=VAE["latent"], sample_size=128, scaling_factor=1.0,
    )  # fmt: skip
    return Configs(text, transformer, vae, SCHEDULER, "PixArtAlphaPipeline", call=CALL)


def to_tree(state: dict[str, torch.Tensor]) -> Tree:
    return px.tree.nest({name: Tensor.from_numpy(value.numpy()) for name, value in state.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pack", required=True, help="what make_pack wrote")
    parser.add_argument("--weights", type=Path, required=True, help="the --out of train")
    parser.add_argument("--out", required=True, help="the pipeline's folder")
    a = parser.parse_args()
    words = tokenizer.Tokenizer(np.load(a.pack)["spiece"].tobytes(), extra_ids=0)
    text, transformer, vae = (to_tree(train.read(name, a.weights)) for name in ("text_encoder", "transformer", "vae"))
    px.save(Params(text, transformer, vae, configs(words.size), words), a.out, dtype="float16")


if __name__ == "__main__":
    main()
