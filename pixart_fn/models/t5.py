"""The T5 v1.1 encoder (arXiv:1910.10683, arXiv:2002.05202): token ids to text states.

B batch, L tokens, D width, A heads, K head width. It computes what transformers' T5EncoderModel computes: attention
isn't scaled, the norm has no mean and no bias, and every layer adds the relative position bias of the first layer.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray

from .. import config as config_
from .. import rng, tree
from ..backend import heads, jit, nn, stream
from ..backend.arrays import as_tensor, check_mask, check_weights
from ..checks import check_type
from ..process.lock import exclusive
from ..public import public
from ..types import Json, Key, Tree

WIDE = ".wo.weight"
"""How the names of the weights end that stay float32 where the others are in half precision, as in transformers: their
products overflow float16."""
MASKED = -1e9
"""What is added to the scores of padding: far enough for a float32 softmax to give it exactly zero."""

TOKENS = 2**24
"""Numbers that one layer makes of the rows that go through it together: a quarter of a GiB with all that it holds."""


@dataclass(frozen=True)
class Config:
    """The fields of text_encoder/config.json that shape the computation.

    Raises:
        ValueError: a field is out of its range, or the distances are too few for the buckets.
    """

    vocab_size: config_.Vocabulary = 32128
    d_model: config_.Width = 4096
    d_kv: config_.Width = 64
    d_ff: config_.Width = 10240
    num_layers: config_.Layers = 24
    num_heads: config_.Width = 64
    relative_attention_num_buckets: Annotated[int, config_.whole(4, 2**12)] = 32
    relative_attention_max_distance: Annotated[int, config_.whole(2, 2**16)] = 128
    layer_norm_epsilon: config_.Epsilon = 1e-6

    def __post_init__(self) -> None:
        config_.check(self, "t5")
        exact, far = self.relative_attention_num_buckets // 4, self.relative_attention_max_distance
        if far <= exact:
            raise ValueError(
                f"t5 config: relative_attention_max_distance must be above {exact}, a quarter of"
                f" relative_attention_num_buckets, got {far}"
            )


# Fields that transformers writes for every model or for T5's decoder, which don't change what the encoder computes:
# names and bookkeeping, training, the form of the outputs, and generation.
_IGNORED = (
    "architectures", "finetuning_task", "id2label", "label2id", "prefix", "problem_type", "task_specific_params",
    "tokenizer_class", "transformers_version", "dtype", "torch_dtype", "use_bfloat16", "torchscript",
    "classifier_dropout", "dropout_rate", "gradient_checkpointing", "initializer_factor", "n_positions",
    "output_attentions", "output_hidden_states", "output_past", "return_dict", "tf_legacy_loss", "use_cache",
    "chunk_size_feed_forward",
    "add_cross_attention", "cross_attention_hidden_size", "is_encoder_decoder", "num_decoder_layers",
    "scale_decoder_outputs", "tie_encoder_decoder", "tie_word_embeddings",
    "bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "sep_token_id",
    "assistant_confidence_threshold", "assistant_lookbehind", "bad_words_ids", "begin_suppress_tokens",
    "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id",
    "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_assistant_tokens",
    "num_assistant_tokens_schedule", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
    "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens", "target_lookbehind",
    "temperature", "top_k", "top_p", "typical_p",
)  # fmt: skip


def read_config(json: Json) -> Config:
    """Make the configuration of a parsed text_encoder/config.json.

    Args:
        json: the file's content, as transformers writes it for T5EncoderModel.
    Returns:
        The configuration.
    Raises:
        TypeError: json is no dict.
        ValueError: a field is unknown, or it isn't a T5 encoder with a gated GELU.
    """
    fixed: dict[str, tuple[Any, ...]] = {
        "dense_act_fn": ("gelu_new",),
        "feed_forward_proj": ("gated-gelu", "gated-gelu_new"),  # two names of one function in transformers
        "is_decoder": (False,),
        "is_gated_act": (True,),
        "model_type": ("t5",),
        "pruned_heads": ({}, None),
    }
    config_.check_object(json, "t5")
    if "feed_forward_proj" not in json:
        raise ValueError("t5 config: feed_forward_proj must be 'gated-gelu'; left out it means 'relu'")
    return config_.read(Config, json, fixed=fixed, ignored=_IGNORED)


def to_json(config: Config) -> Json:
    """Write a configuration as the config.json that transformers reads.

    Args:
        config: the encoder's configuration.
    Returns:
        The file's content.
    Raises:
        TypeError: config isn't a Config.
    """
    check_type("config", config, Config, "a t5.Config")
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **asdict(config),
    }


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """List the tensors of an encoder.

    Args:
        config: the encoder's configuration.
    Returns:
        Each tensor's name in the checkpoint, and its shape.
    Raises:
        TypeError: config isn't a Config.
    """
    check_type("config", config, Config, "a t5.Config")
    D, inner, ff = config.d_model, config.num_heads * config.d_kv, config.d_ff
    out: dict[str, tuple[int, ...]] = {"shared.weight": (config.vocab_size, D)}
    for i in range(config.num_layers):
        attention, mlp = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
        for name in "qkv":
            out[f"{attention}.SelfAttention.{name}.weight"] = (inner, D)
        out[f"{attention}.SelfAttention.o.weight"] = (D, inner)
        if i == 0:
            table = (config.relative_attention_num_buckets, config.num_heads)
            out[f"{attention}.SelfAttention.relative_attention_bias.weight"] = table
        out[f"{attention}.layer_norm.weight"] = (D,)
        out[f"{mlp}.DenseReluDense.wi_0.weight"] = out[f"{mlp}.DenseReluDense.wi_1.weight"] = (ff, D)
        out[f"{mlp}.DenseReluDense.wo.weight"] = (D, ff)
        out[f"{mlp}.layer_norm.weight"] = (D,)
    out["encoder.final_layer_norm.weight"] = (D,)
    return out


def init(key: Key, config: Config) -> Tree:
    """Draw initial weights with T5's standard deviations.

    They are 1 for embeddings, 1/√fan-in for projections, 1/√(D·K) for q and 1/√D for positions; norms are 1.

    Args:
        key: of the drawing, from `px.key`.
        config: the encoder's configuration.
    Returns:
        The tree, of float32 Tensors.
    Raises:
        TypeError: config isn't a Config, or key isn't an array.
        ValueError: key isn't a key.
    """
    rng.check_key(key)
    flat = {}
    for i, (name, shape) in enumerate(shapes(config).items()):
        if "layer_norm" in name:
            value = np.ones(shape, np.float32)
        else:
            fan_in = config.d_model if "relative_attention_bias" in name else shape[-1]
            scale = 1.0 if name == "shared.weight" else fan_in**-0.5
            if name.endswith(".q.weight"):
                scale *= config.d_kv**-0.5
            value = rng.normal(rng.fold_in(key, i), shape) * np.float32(scale)
        flat[name] = Tensor.from_numpy(value)
    return tree.nest(flat)


@public
@exclusive
def encode(p: Tree, config: Config, ids: Tensor, mask: Tensor) -> Tensor:
    """Encode token ids as text states.

    Args:
        p: the encoder's tree, of Tensors or of leaves that are read layer by layer (`load(stream=True)`, `quantize`).
        config: its configuration.
        ids: (B, L), whole numbers within 0 … vocab_size - 1.
        mask: (B, L), 1 where a token is real and 0 elsewhere.
    Returns:
        (B, L, D) float32; rows of padding hold values that nothing should read.
    Raises:
        TypeError: config isn't a Config, or ids or mask is neither an array nor a Tensor of numbers.
        ValueError: p doesn't hold the tensors of the configuration, ids or mask isn't as described above, or a row of
            the mask has no real token.
    """
    check_weights(p, shapes(config), "p", stored=True, wide=WIDE)
    ids, mask = as_tensor(ids, "ids"), as_tensor(mask, "mask")
    _check_ids(config, ids, mask)
    ids = ids.int()  # the lookup takes no other whole numbers than signed ones
    L = ids.shape[1]
    embeddings, blocks = p["shared"]["weight"], p["encoder"]["block"]
    stored = stream.is_stored(embeddings)
    x = stream.rows(embeddings, ids.asnumpy()) if stored else ops.gather(embeddings, ids, 0).float()
    table = stream.tensors(blocks[0]["layer"][0]["SelfAttention"]["relative_attention_bias"])
    position = _position_bias(table, one_hot_buckets(config, L))
    hidden = ((1.0 - mask.float()) * MASKED).reshape(-1, 1, 1, L)
    rows = rows_at_once(config, L)
    parts, hiddens = ([x], [hidden]) if len(x) <= rows else (list(ops.split(each, rows)) for each in (x, hidden))
    biases = [position + hiddens[0]] if len(parts) == 1 else None  # (B, A, L, L), or made for each part when needed
    for block in stream.each(map(_weights, blocks)):
        for i, part in enumerate(parts):
            parts[i] = _block(block, part, biases[i] if biases else position + hiddens[i], config=config)
    x = parts[0] if len(parts) == 1 else ops.cat(parts, 0)
    return _final(stream.tensors(p["encoder"]["final_layer_norm"]), x, config=config)


def rows_at_once(config: Config, L: int) -> int:
    """How many rows go through a layer together, so that memory doesn't grow with the number of prompts.

    Args:
        config: the encoder's configuration.
        L: tokens of each row.
    Returns:
        At least 1.
    """
    token = config.d_model + config.d_ff + config.num_heads * (config.d_kv + L)
    return max(1, TOKENS // (L * token))


def _check_ids(config: Config, ids: Tensor, mask: Tensor) -> None:
    if ids.ndim != 2 or 0 in ids.shape or "int" not in str(ids.dtype).lower() or tuple(mask.shape) != tuple(ids.shape):
        got = f"{str(ids.dtype).lower()} {tuple(ids.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"ids must be whole numbers (B, L) and mask of the same shape, got {got}")
    values = ids.asnumpy()
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= config.vocab_size:  # a lookup beyond the table gives zeros without a word
        raise ValueError(f"ids must be within 0 … {config.vocab_size - 1}, got {low if low < 0 else high}")
    check_mask(mask, "mask")


def quantize(p: Tree) -> Tree:
    """Round an encoder's matrices to int8 with one scale for each row, which takes a quarter of float32's memory.

    Each layer is turned into float32 again before it is evaluated, so this saves memory, not time. Norms and the table
    of positions stay as they are.

    Args:
        p: the encoder's tree.
    Returns:
        A tree for `encode`.
    Raises:
        TypeError: a leaf is neither a Tensor nor one that is read layer by layer.
    """
    return stream.quantize_matrices(p, "encoder", lambda name: "relative_attention_bias" not in name)


def buckets(config: Config, L: int) -> NDArray[np.int64]:
    """Find the bucket of the distance from each query to each key (arXiv:1910.10683, sec. 2.1).

    Half of the buckets are for keys after the query; in each half, the first half are exact distances and the rest
    grow logarithmically up to relative_attention_max_distance.

    Args:
        config: the encoder's configuration.
        L: tokens.
    Returns:
        int (L, L), one row for each query.
    """
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    distance = np.arange(L)[None] - np.arange(L)[:, None]  # key − query
    far = np.abs(distance)
    # float32 and truncation as in the reference: float64 moves distances that sit on a boundary
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(
        np.log(config.relative_attention_max_distance / exact)
    )
    log = exact + (ratio * np.float32(half - exact)).astype(np.int64)
    return np.asarray(np.where(far < exact, far, np.minimum(log, half - 1)) + half * (distance > 0))


@functools.lru_cache(maxsize=16)
def one_hot_buckets(config: Config, L: int) -> Tensor:
    """Write `buckets` as one-hot rows, so that looking the bias up is a product, whose gradient is right.

    Args:
        config: the encoder's configuration.
        L: tokens.
    Returns:
        (L·L, relative_attention_num_buckets) float32.
    """
    rows = np.eye(config.relative_attention_num_buckets, dtype=np.float32)
    return Tensor.from_numpy(rows[buckets(config, L).ravel()])


def _weights(block: Tree) -> Tree:
    """A block without the position table, so that the first has the shape of the others and shares their graph."""
    attention, mlp = block["layer"]
    projections = {name: attention["SelfAttention"][name] for name in "qkvo"}
    norms = {"norm_a": attention["layer_norm"], "norm_m": mlp["layer_norm"]}
    return {"attention": projections, "mlp": mlp["DenseReluDense"], **norms}


@jit.block
def _position_bias(p: Tree, one_hot: Tensor, config: Config) -> Tensor:
    L = int(one_hot.shape[0] ** 0.5 + 0.5)
    table = ops.cast(p["weight"], one_hot.dtype)
    return ops.transpose(ops.matmul(one_hot, table).reshape(1, L, L, -1), (0, 3, 1, 2))  # (1, A, L, L)


@jit.block
def _block(p: Tree, x: Tensor, bias: Tensor, config: Config) -> Tensor:
    h = nn.rms_norm(p["norm_a"], x, config.layer_norm_epsilon)
    a = p["attention"]
    h = heads.attention(nn.linear(a["q"], h), nn.linear(a["k"], h), nn.linear(a["v"], h), bias, config.num_heads, 1.0)
    x = x + _wide(nn.linear(a["o"], h))
    h = nn.rms_norm(p["norm_m"], x, config.layer_norm_epsilon)
    h = nn.gelu_tanh(_wide(nn.linear(p["mlp"]["wi_0"], h))) * _wide(nn.linear(p["mlp"]["wi_1"], h))
    return x + _wide(nn.linear(p["mlp"]["wo"], h))


def _wide(x: Tensor) -> Tensor:
    # T5's states go far beyond float16, and so may the product of its gate
    return ops.cast(x, ms.float32)


@jit.block
def _final(p: Tree, x: Tensor, config: Config) -> Tensor:
    return nn.rms_norm(p, x, config.layer_norm_epsilon)
