"""How tools name an adapter's tensors: peft, diffusers of today and before, kohya, OneTrainer and LyCORIS.

A tensor's name is that of a module and an ending, such as ".lora_A.weight" (peft), ".lora_down.weight" (kohya) or
".lora.down.weight" (diffusers before it used peft). A module's name may begin with that of its model, and have "_" for
".": since PixArt's modules are known, that is still one module. Their names are diffusers' or those of PixArt's
authors, who keep queries, keys and values in one matrix, which is several modules here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ..checks import first_few, shown
from ..models import lora_forms as forms
from ..models.lora_forms import COLUMNS, ROWS

PEFT = "base_model.model."
"""What peft's names begin with."""
MID = "lora_mid.weight"
"""The core of a convolution's LoRA in LyCORIS, between its A and its B."""
_NAME = re.compile(
    r"(?P<module>.+?)(?:"
    r"[._]lora(?:_linear_layer)?[._](?P<factor>A|B|down|up|mid)(?:\.[^.]+)?\.weight"  # peft's: the adapter's name
    r"|\.(?P<rows>lora_magnitude_vector)(?:\.[^.]+){0,2}"
    r"|\.(?P<lycoris>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.[^.]+)?"
    r"|\.(?P<other>dora_scale|diff|alpha))"
)
_FACTORS = {
    "A": "lora_A.weight", "down": "lora_A.weight", "B": "lora_B.weight", "up": "lora_B.weight", "mid": MID
}  # fmt: skip
_MODELS = {
    "transformer": (
        "", "transformer_", "unet_", "diffusion_model_", "model_diffusion_model_", "lora_transformer_", "lora_unet_",
        "lycoris_",
    ),
    "text_encoder": ("", "text_encoder_", "text_encoders_t5xxl_transformer_", "t5_", "lora_te_", "lora_te1_"),
}  # fmt: skip
"""What the names of each model's modules begin with, where "_" stands for "."; "" says no model."""
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_BLOCK = (
    *(f"{attention}.{part}" for attention in ("attn1", "attn2") for part in _ATTENTION),
    "attn1.sr", "ff.net.0.proj", "ff.net.2",
)  # fmt: skip
_EMBEDDED = ("timestep", "resolution", "aspect_ratio")
_AROUND = (
    "pos_embed.proj", "proj_out", "adaln_single.linear", "caption_projection.linear_1", "caption_projection.linear_2",
    *(f"adaln_single.emb.{what}_embedder.linear_{i}" for what in _EMBEDDED for i in (1, 2)),
)  # fmt: skip
_T5 = (
    *(f"layer.0.SelfAttention.{part}" for part in "qkvo"),
    *(f"layer.1.DenseReluDense.{w}" for w in ("wi_0", "wi_1", "wo")),
)
_AUTHORS = {
    "blocks.#.attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "blocks.#.attn.proj": ("attn1.to_out.0",),
    "blocks.#.attn.sr": ("attn1.sr",),
    "blocks.#.cross_attn.q_linear": ("attn2.to_q",),
    "blocks.#.cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "blocks.#.cross_attn.proj": ("attn2.to_out.0",),
    "blocks.#.mlp.fc1": ("ff.net.0.proj",),
    "blocks.#.mlp.fc2": ("ff.net.2",),
    "x_embedder.proj": ("pos_embed.proj",),
    "t_embedder.mlp.0": ("adaln_single.emb.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("adaln_single.emb.timestep_embedder.linear_2",),
    "csize_embedder.mlp.0": ("adaln_single.emb.resolution_embedder.linear_1",),
    "csize_embedder.mlp.2": ("adaln_single.emb.resolution_embedder.linear_2",),
    "ar_embedder.mlp.0": ("adaln_single.emb.aspect_ratio_embedder.linear_1",),
    "ar_embedder.mlp.2": ("adaln_single.emb.aspect_ratio_embedder.linear_2",),
    "t_block.1": ("adaln_single.linear",),
    "y_embedder.y_proj.fc1": ("caption_projection.linear_1",),
    "y_embedder.y_proj.fc2": ("caption_projection.linear_2",),
    "final_layer.linear": ("proj_out",),
}
_FOREIGN = {
    r"(down|up|mid|input|output|middle)_blocks?[._]|text_model|text_encoder_2|lora_te2": "Stable Diffusion",
    r"(double|single|single_transformer)_blocks[._]": "Flux",
    r"joint_blocks[._]|add_[qkv]_proj": "Stable Diffusion 3",
}
"""What some names of modules tell about the model that they belong to."""
_OTHERS = {
    r"\.lora_embedding_": "an adapter of an embedding, which isn't supported",
    r"\.(lora_\w+\.bias|diff_b)$": "a change of biases, which isn't supported",
    r"\.[wb]_norm$": "a change of norms, which isn't supported",
    r"^bundle_emb": "an embedding of OneTrainer, which isn't supported",
    r"\.(oft|boft)_": "OFT, which isn't supported",
    r"\.[ab][12]\.weight$": "GLoRA, which isn't supported",
    r"\.(on_input|lora_ia3\w*|ia3_l)$": "(IA)³, which isn't supported",
}


class Module(NamedTuple):
    """The tensors in a file that change one of its modules, which is several here where it is queries, keys and values.

    `names` gives the name in the file by "alpha", MID, or the name in an `Adapter`, such as "lora_A.weight".
    """

    targets: tuple[str, ...]
    names: dict[str, str]


class Names(NamedTuple):
    """An adapter's modules, whether peft's own settings belong to them, and whether "A" and "B" are its factors."""

    modules: list[Module]
    peft: bool
    letters: bool


def _table() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return the model and the modules here of every module's name, in which "#" is a block's number."""
    out: dict[str, tuple[str, tuple[str, ...]]] = {name: ("transformer", (name,)) for name in _AROUND}
    out |= {f"transformer_blocks.#.{part}": ("transformer", (f"transformer_blocks.#.{part}",)) for part in _BLOCK}
    out |= {f"encoder.block.#.{part}": ("text_encoder", (f"encoder.block.#.{part}",)) for part in _T5}
    for name, ours in _AUTHORS.items():
        inner = "transformer_blocks.#." if "#" in name else ""
        out[name] = ("transformer", tuple(inner + each for each in ours))
        if len(ours) > 1:  # as OneTrainer numbers them
            out |= {f"{name}.{i}": ("transformer", (inner + each,)) for i, each in enumerate(ours)}
    old = {name.removesuffix(".0"): where for name, where in out.items() if name.endswith(".to_out.0")}  # to_out_lora
    return {name.replace(".", "_"): where for name, where in (out | old).items()}


_TABLE = _table()


def read_names(names: Iterable[str], where: object) -> Names:
    """Sort the names in a file by module.

    Args:
        names: of the tensors.
        where: the file, for an error.
    Returns:
        The Names, whose targets begin with "transformer" or "text_encoder" unless the file has the modules of one model
        and says nowhere which.
    Raises:
        ValueError: a name isn't known or belongs to another model, or a module lacks a tensor or has one twice.
    """
    every = list(names)
    found: dict[tuple[str, tuple[str, ...]], dict[str, str]] = {}
    said, letters = False, False
    for name in every:
        match = _NAME.fullmatch(name)
        if match is None:
            raise _unknown([name, *every], where)
        place = _place(match["module"])
        if place is None:
            raise _foreign(name, where)
        says, model, targets = place
        what = _FACTORS.get(match["factor"]) or (ROWS if match["rows"] else match["lycoris"] or match["other"])
        own = found.setdefault((model, targets), {})
        if what in own:
            raise _twice(what, targets[0], own[what], name, where)
        own[what] = name
        said, letters = said or says, letters or match["factor"] in ("A", "B")
    if not found:
        raise ValueError(f"{where} holds no adapter: it has no tensors")
    said = said or len({model for model, _ in found}) > 1
    modules = [
        Module(tuple(f"{model}.{each}" if said else each for each in targets), own)
        for (model, targets), own in found.items()
    ]
    _check_whole(modules, where)
    peft = all(name.startswith(PEFT) for name in every)
    return Names(modules, peft, letters or peft)


def _place(module: str) -> tuple[bool, str, tuple[str, ...]] | None:
    """Return whether a module's name says its model, this model, and the modules here; None where they are unknown."""
    flat = module.replace(".processor.", ".").replace(".", "_")
    for model, beginnings in _MODELS.items():
        for beginning in beginnings:
            if not flat.startswith(beginning):
                continue
            rest = flat[len(beginning) :].removeprefix("base_model_model_")
            block = re.fullmatch(r"(transformer_blocks|blocks|encoder_block)_(0|[1-9]\d*)_(.+)", rest)
            found = _TABLE.get(f"{block[1]}_#_{block[3]}" if block else rest)
            if found is not None and found[0] == model:
                number = block[2] if block else ""
                return beginning != "", model, tuple(each.replace("#", number) for each in found[1])
    return None


def _check_whole(modules: list[Module], where: object) -> None:
    for module in modules:
        names, parts = module.names, set(module.names) - {"alpha", MID, ROWS, COLUMNS}
        if not forms.form(parts) or (MID in names and "lora_A.weight" not in names):
            if parts < {"lora_A.weight", "lora_B.weight"} and parts:
                raise ValueError(
                    f"{where} must hold lora_A and lora_B of each module, and for {module.targets[0]} holds one of them"
                )
            raise ValueError(
                f"{where} holds {first_few(sorted(names))} for {module.targets[0]}, which is neither a whole LoRA nor a"
                " LoHa, a LoKr or a diff"
            )
        if {ROWS, COLUMNS} <= set(names):
            raise _twice("DoRA's lengths", module.targets[0], names[ROWS], names[COLUMNS], where)
    counts = Counter(target for module in modules for target in module.targets)
    for target, count in counts.items():
        if count > 1:
            one, other = (next(iter(each.names.values())) for each in modules if target in each.targets)
            raise _twice("a change", target, one, other, where)


def _twice(what: str, target: str, one: str, other: str, where: object) -> ValueError:
    return ValueError(f"{where} holds {what.removesuffix('.weight')} of {target} twice, as {one} and as {other}")


def _foreign(name: str, where: object) -> ValueError:
    whose = next((f", but {model} has" for pattern, model in _FOREIGN.items() if re.search(pattern, name)), "")
    return ValueError(
        f"{where} holds {shown(name)}, of a module that PixArt's transformer and T5 don't have{whose}; it belongs to"
        " another model"
    )


def _unknown(names: list[str], where: object) -> ValueError:
    """Make the error for names of which the first isn't read here, though another may tell better what the file is."""
    known = ((name, said) for name in names for pattern, said in _OTHERS.items() if re.search(pattern, name))
    name, what = next(known, (names[0], "a tensor of another kind"))
    return ValueError(
        f"{where} holds {what}, such as {shown(name)}; what is read here is LoRA, DoRA, LoHa, LoKr and diff, as peft,"
        " diffusers, kohya, OneTrainer and LyCORIS name them"
    )
