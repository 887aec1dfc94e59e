"""The names that tools give an adapter's tensors, restated from what each writes, and the modules of a pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from pixart_fn.models import t5, transformer

AUTHORS = {
    "attn1.to_q": "attn.qkv", "attn1.to_k": "attn.qkv", "attn1.to_v": "attn.qkv", "attn1.to_out.0": "attn.proj",
    "attn2.to_q": "cross_attn.q_linear", "attn2.to_k": "cross_attn.kv_linear", "attn2.to_v": "cross_attn.kv_linear",
    "attn2.to_out.0": "cross_attn.proj", "ff.net.0.proj": "mlp.fc1", "ff.net.2": "mlp.fc2",
    "pos_embed.proj": "x_embedder.proj", "proj_out": "final_layer.linear", "adaln_single.linear": "t_block.1",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1", "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "adaln_single.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "adaln_single.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "adaln_single.emb.resolution_embedder.linear_1": "csize_embedder.mlp.0",
    "adaln_single.emb.resolution_embedder.linear_2": "csize_embedder.mlp.2",
    "adaln_single.emb.aspect_ratio_embedder.linear_1": "ar_embedder.mlp.0",
    "adaln_single.emb.aspect_ratio_embedder.linear_2": "ar_embedder.mlp.2",
}  # fmt: skip
"""What PixArt's authors call diffusers' modules."""
ORDER = {"attn1.to_q": 0, "attn1.to_k": 1, "attn1.to_v": 2, "attn2.to_k": 0, "attn2.to_v": 1}
"""The place of a module in the authors' matrix of several."""


def modules(config: transformer.Config, text: t5.Config) -> dict[str, list[str]]:
    """Every linear and convolution of both models, by diffusers' and transformers' names."""
    every = {"transformer": transformer.shapes(config), "text_encoder": t5.shapes(text)}
    tables = ("scale_shift_table", "shared.weight", "relative_attention_bias.weight")
    return {
        part: [
            name.removesuffix(".weight")
            for name, shape in shapes.items()
            if len(shape) in (2, 4) and not name.endswith(tables)
        ]
        for part, shapes in every.items()
    }


def authors(module: str, numbered: bool = False) -> str:
    """The authors' name of a module, or OneTrainer's, which numbers the parts of a matrix."""
    block, inner = re.fullmatch(r"(?:transformer_(blocks\.\d+\.))?(.+)", module).groups()
    number = f".{ORDER[inner]}" if numbered and inner in ORDER else ""
    return (block or "") + AUTHORS[inner] + number


class Form(NamedTuple):
    """How a tool names the modules of each model, and ends the names of "A", "B", "alpha" and DoRA's "lengths"."""

    parts: dict[str, Callable[[str], str]]
    ends: Callable[[str], dict[str, str]]
    alpha: bool = False
    """Whether the tool writes alpha as a tensor."""
    bare: bool = False
    """Whether no name says its model."""

    def name(self, part: str, module: str, what: str) -> str:
        return self.parts[part](module) + self.ends(module)[what]


def flat(start: str, rule: Callable[[str], str] = lambda module: module) -> Callable[[str], str]:
    return lambda module: start + rule(module).replace(".", "_")


def dotted(start: str, rule: Callable[[str], str] = lambda module: module) -> Callable[[str], str]:
    return lambda module: start + rule(module)


def peft(adapter: str = "") -> Callable[[str], dict[str, str]]:
    ends = {"A": f".lora_A{adapter}.weight", "B": f".lora_B{adapter}.weight"}
    return lambda module: {**ends, "lengths": f".lora_magnitude_vector{adapter}", "alpha": ".alpha"}


def kohya(module: str) -> dict[str, str]:
    ends = {"A": ".lora_down.weight", "B": ".lora_up.weight"}
    return {**ends, "lengths": ".dora_scale", "alpha": ".alpha"}


def old(module: str) -> dict[str, str]:
    """Attention's processors kept their own, which `before` cuts off for."""
    join = "_lora." if ".attn" in module else ".lora."
    return {"A": f"{join}down.weight", "B": f"{join}up.weight", "alpha": ".alpha"}


def before(module: str) -> str:
    return re.sub(r"(attn\d)\.(to_\w+)(\.0)?", r"\1.processor.\2", f"unet.{module}")


def linear_layer(module: str) -> dict[str, str]:
    return {"A": ".lora_linear_layer.down.weight", "B": ".lora_linear_layer.up.weight"}


FORMS = {
    "peft": Form({"transformer": dotted("base_model.model.")}, peft(), bare=True),
    "peft, T5": Form({"text_encoder": dotted("base_model.model.")}, peft(), bare=True),
    "peft, with its adapter's name": Form({"transformer": dotted("base_model.model.")}, peft(".default"), bare=True),
    "peft, authors' model": Form({"transformer": dotted("base_model.model.", authors)}, peft(), bare=True),
    "a model of diffusers": Form({"transformer": dotted("")}, peft(), bare=True),
    "a pipeline of diffusers": Form({part: dotted(f"{part}.") for part in ("transformer", "text_encoder")}, peft()),
    "authors' trainer": Form({"transformer": dotted("unet.base_model.model.")}, peft()),
    "unet": Form({"transformer": dotted("unet.")}, peft()),
    "diffusers before peft": Form({"transformer": before}, old),
    "T5 before peft": Form({"text_encoder": dotted("text_encoder.")}, linear_layer),
    "OneTrainer": Form({"transformer": flat("lora_transformer_"), "text_encoder": flat("lora_te_")}, kohya, True),
    "OneTrainer, its new names": Form(
        {"transformer": dotted("transformer.", lambda m: authors(m, True)), "text_encoder": dotted("t5.")}, kohya, True
    ),
    "kohya": Form({"transformer": flat("lora_unet_"), "text_encoder": flat("lora_te1_")}, kohya, True),
    "kohya, authors' names": Form({"transformer": flat("lora_unet_", authors)}, kohya, True),
    "ComfyUI": Form({"transformer": dotted("diffusion_model.", authors)}, kohya, True),
    "ComfyUI, peft's factors": Form({"transformer": dotted("diffusion_model.", authors)}, peft()),
    "ComfyUI, T5": Form({"text_encoder": dotted("text_encoders.t5xxl.transformer.")}, kohya, True),
    "ComfyUI, diffusers' names": Form(
        {"transformer": dotted("transformer."), "text_encoder": flat("lora_te1_")}, kohya, True
    ),
    "LyCORIS": Form({"transformer": flat("lycoris_")}, kohya, True),
}
