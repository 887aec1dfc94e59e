"""Put the weights of `train` into a pipeline's folder: python -m tests.reference.twin.export --help"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from mindspore import Tensor

import pixart_fn as px
from pixart_fn.models import tokenizer
from pixart_fn.train.emoji import text_to_image
from pixart_fn.types import Tree

from . import train


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
    models = {"text_encoder": text, "transformer": transformer}
    px.save(text_to_image.pipeline(models, vae, words), a.out, dtype="float16")


if __name__ == "__main__":
    main()
