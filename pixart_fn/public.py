"""The decorator of public functions: a call with a wrong argument is an error that names the right one."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Names from diffusers and elsewhere, each with our names for the same thing; a function has at most one of these.
_OURS: dict[str, tuple[str, ...]] = {
    "callback": ("on_step",),
    "callback_on_step_end": ("on_step",),
    "cfg": ("guidance",),
    "cfg_scale": ("guidance",),
    "clean_caption": ("clean",),
    "generator": ("key",),
    "image": ("pictures",),
    "images": ("pictures", "images_per_prompt"),
    "manual_seed": ("key",),
    "n": ("images_per_prompt",),
    "negative": ("negative_prompt",),
    "negative_prompt": ("negative",),
    "num_images": ("images_per_prompt",),
    "num_images_per_prompt": ("images_per_prompt",),
    "num_inference_steps": ("steps",),
    "num_steps": ("steps",),
    "output_type": ("output",),
    "prompt": ("text",),
    "negative_prompt_embeds": ("negative",),
    "prompt_embeds": ("text",),
    "prompts": ("prompt", "text"),
    "resolution": ("height",),
    "scheduler": ("solver",),
    "seed": ("key",),
    "sigmas": ("grid",),
    "size": ("height",),
    "timesteps": ("grid",),
    "use_resolution_binning": ("binning",),
    "z": ("latents",),
}
# Names from diffusers and from earlier versions, each with the field of a Guidance that has taken its place.
_GUIDANCE = {
    "compat": "compat",
    "guidance_rescale": "rescale",
    "guidance_scale": "scale",
    "interval": "interval",
    "pag_layers": "pag_layers",
    "pag_scale": "pag_scale",
    "rescale": "rescale",
}
# Names of arguments that don't exist here, each with what to do instead.
_OTHERWISE = {
    "cache_dir": "set the environment variable HF_HUB_CACHE before Python starts",
    "device": "MindSpore computes on the device that it finds",
    "device_map": "MindSpore computes on the device that it finds; stream=True keeps the text encoder on the disk",
    "eta": "solver=px.solvers.ddim(eta) takes it",
    "force_download": "remove it from the cache, as `hf cache` does",
    "local_files_only": "set the environment variable HF_HUB_OFFLINE=1 before Python starts",
    "learned_variance": "px.text_variance_denoiser and px.guidance.variance_denoiser give (x0, variance)",
    "low_cpu_mem_usage": "weights are mapped and take memory as they are used; stream=True goes further",
    "max_sequence_length": "a prompt has 120 tokens with PixArt-α and 300 with PixArt-Σ",
    "model": "give it as source, the first argument",
    "path": "give it as source, the first argument",
    "negative_prompt_embeds": "px.sample_latents(params, text, key, negative=…) takes a Text",
    "pretrained_model_name_or_path": "give it as source, the first argument",
    "prompt_embeds": "px.sample_latents(params, text, key) takes a Text",
    "quantization_config": "px.t5.quantize(params.text_encoder) makes the text encoder int8",
    "safety_checker": "PixArt has none",
    "strength": "px.schedule.truncate(grid, strength) makes a grid=, and latents= is where it begins",
    "subfolder": "give the folder or hub id; the model's folder inside is found",
    "token": "log in with `hf auth login`, or set the environment variable HF_TOKEN",
    "tokenizer": "it is read from beside the text encoder that text_encoder= names",
    "torch_dtype": 'say dtype="float16"',
    "use_auth_token": "log in with `hf auth login`, or set the environment variable HF_TOKEN",
    "use_safetensors": "leave it out, since only .safetensors files are ever read",
}
_MAKERS = {
    "grid": "px.schedule.grid(schedule, times)",
    "height": "height=512, width=768",
    "key": "px.key(0)",
    "latents": "px.sample_latents(params, text, key)",
    "negative": "negative=px.encode_prompt(params, 'blurred')",
    "params": "px.load()",
    "prompt": "'a cute cat'",
    "solver": "solver='dpmpp_2m'",
    "text": "px.encode_prompt(params, 'a cute cat')",
}


def public(f: Callable[P, R]) -> Callable[P, R]:
    """Make a call of f with wrong arguments an error of one sentence that names the right ones.

    Inside `ms.jit` and `ms.vmap`, where MindSpore would read f as a graph, MindSpore refuses f with its name.

    Args:
        f: a public function.
    Returns:
        The same function with these checks.
    """
    signature = inspect.signature(f)

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            sentence = _sentence(f.__name__, signature.parameters, len(args), kwargs, error)
            raise TypeError(sentence) from None
        return f(*args, **kwargs)

    vars(call)["__jit_forbidden__"] = True
    return call


def _sentence(
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    given: int,
    keywords: Mapping[str, object],
    error: TypeError,
) -> str:
    wrong = next((keyword for keyword in keywords if keyword not in parameters), None)
    if wrong is not None:
        guided = "guidance" in parameters and wrong in _GUIDANCE
        return f"{name} has no argument {wrong!r}; {_guidance(keywords) if guided else _instead(wrong, parameters)}"
    positional = [key for key, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if given > len(positional):
        return f"{name} takes {', '.join(positional)} by position and all else by name, got {given} arguments"
    required = [key for key in positional[given:] if parameters[key].default is inspect.Parameter.empty]
    missing = [key for key in required if key not in keywords]
    if missing:
        return f"{name} needs {missing[0]!r}" + (f", such as {_MAKERS[missing[0]]}" if missing[0] in _MAKERS else "")
    return f"{name}: {error}"


def _guidance(keywords: Mapping[str, object]) -> str:
    """Say what takes the place of keywords that are fields of a Guidance: guidance_scale=3 is now guidance=3."""
    old = {name: _shown(value) for name, value in keywords.items() if name in _GUIDANCE}
    fields = {_GUIDANCE[name]: value for name, value in old.items()}
    if "guidance" in keywords:
        fields.setdefault("scale", _shown(keywords["guidance"]))
    now = ", ".join(f"{field}={value}" for field, value in sorted(fields.items(), key=lambda each: each[0] != "scale"))
    new = fields["scale"] if fields.keys() == {"scale"} else f"px.Guidance({now})"
    return f"{', '.join(f'{name}={value}' for name, value in old.items())} is now guidance={new}"


def _shown(value: object) -> str:
    """Return the repr of a short value, and "…" for any other."""
    short = isinstance(value, (bool, int, float, str, tuple, list)) and len(repr(value)) <= 30
    return repr(value) if short else "…"


def _instead(wrong: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    ours = [name for name in _OURS.get(wrong, ()) if name in parameters]
    if not ours and wrong in _OTHERWISE:
        return _OTHERWISE[wrong]
    ours = ours or difflib.get_close_matches(wrong, parameters, 1)
    if not ours:
        return f"its arguments are {', '.join(parameters)}"
    made = f", such as {_MAKERS[ours[0]]}" if ours[0] in _MAKERS else ""
    return f"the argument is {ours[0]!r}{made}"
