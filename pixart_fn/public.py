"""The decorators of public functions and classes: a wrong argument is an error that names the right one."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Names from diffusers and elsewhere, each with our names for the same thing; a function has at most one of these.
_OURS: dict[str, tuple[str, ...]] = {
    "callback": ("on_step",),
    "callback_on_step_end": ("on_step",),
    "clean_caption": ("clean",),
    "controlnet": ("controls",),
    "generator": ("key",),
    "guidance": ("scale",),
    "image": ("pictures",),
    "images": ("pictures", "images_per_prompt"),
    "manual_seed": ("key",),
    "mask_image": ("mask",),
    "max_sequence_length": ("tokens",),
    "n": ("images_per_prompt",),
    "negative": ("negative_prompt",),
    "negative_prompt": ("negative",),
    "negative_prompt_embeds": ("negative",),
    "num_images": ("images_per_prompt",),
    "num_images_per_prompt": ("images_per_prompt",),
    "num_inference_steps": ("steps",),
    "num_steps": ("steps",),
    "output_type": ("output",),
    "perturbed": ("worse",),
    "phi": ("rescale",),
    "prompt": ("text",),
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
# Names from diffusers, papers and earlier versions, each with the field of a Guidance that has taken its place.
_GUIDANCE = {
    "cfg": "scale",
    "cfg_scale": "scale",
    "compat": "compat",
    "guidance_rescale": "rescale",
    "guidance_scale": "scale",
    "interval": "interval",
    "method": "method",
    "pag_layers": "pag_layers",
    "pag_scale": "pag_scale",
    "rescale": "rescale",
    "scale": "scale",
    "w": "scale",
    "worse": "worse",
}
# Names of arguments that don't exist here, each with what to do instead.
_OTHERWISE = {
    "argnums": "it is the first argument of f that counts, as in px.grad(lambda x: f(tree, x))(x)",
    "controlnet_conditioning_scale": "px.controlnet.control(params, net, pictures, scale=…) takes it",
    "cache_dir": "set the environment variable HF_HUB_CACHE before Python starts",
    "device": "MindSpore computes on the device that it finds",
    "device_map": "MindSpore computes on the device that it finds; stream=True keeps the text encoder on the disk",
    "eta": "solver=px.solvers.ddim(eta) takes it",
    "force_download": "remove it from the cache, as `hf cache` does",
    "learned_variance": "px.text_variance_denoiser and px.guidance.variance_denoiser give (x0, variance)",
    "local_files_only": "set the environment variable HF_HUB_OFFLINE=1 before Python starts",
    "low_cpu_mem_usage": "weights are mapped and take memory as they are used; stream=True goes further",
    "mask_image": "px.edit.inpaint(params, picture, mask, prompt, key) takes it",
    "model": "give it as source, the first argument",
    "negative_prompt_embeds": "px.sample_latents(params, text, key, negative=…) takes a Text",
    "path": "give it as source, the first argument",
    "pretrained_model_name_or_path": "give it as source, the first argument",
    "prompt_embeds": "px.sample_latents(params, text, key) takes a Text",
    "quantization_config": "px.t5.quantize(params.text_encoder) makes the text encoder int8",
    "prompt_weights": "px.prompts.weighted(params, 'a (red:1.5) cat') makes a Text",
    "safety_checker": "PixArt has none",
    "strength": "px.edit.image_to_image(params, picture, prompt, key, strength=…) takes it",
    "subfolder": "give the folder or hub id; the model's folder inside is found",
    "token": "log in with `hf auth login`, or set the environment variable HF_TOKEN",
    "tokenizer": "it is read from beside the text encoder that text_encoder= names",
    "torch_dtype": 'say dtype="float16"',
    "use_auth_token": "log in with `hf auth login`, or set the environment variable HF_TOKEN",
    "use_safetensors": "leave it out, since only .safetensors files are ever read",
}
# The same for functions that have a certain argument, which come first.
_WITH = {"learned_variance": {"solver": 'solver=px.solvers.ddpm("learned_range") reads it'}}
_MAKERS = {
    "grid": "px.schedule.grid(schedule, times)",
    "height": "height=512, width=768",
    "key": "px.key(0)",
    "latents": "px.sample_latents(params, text, key)",
    "negative": "negative=px.encode_prompt(params, 'blurred')",
    "params": "px.load()",
    "pictures": "PIL.Image.open('photo.png').convert('RGB')",
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
        _bind(f.__name__, signature, args, kwargs)
        return f(*args, **kwargs)

    vars(call)["__jit_forbidden__"] = True
    return call


def public_class(cls: type[R]) -> type[R]:
    """Make a wrong argument of a class an error of one sentence that names the right one, as `public` does.

    Args:
        cls: a public class.
    Returns:
        The same class with these checks.
    """
    signature, init = inspect.signature(cls), vars(cls)["__init__"]

    @functools.wraps(init)
    def call(self: R, *args: object, **kwargs: object) -> None:
        _bind(cls.__name__, signature, args, kwargs)
        init(self, *args, **kwargs)

    type.__setattr__(cls, "__init__", call)
    return cls


def _bind(name: str, signature: inspect.Signature, args: Sequence[object], keywords: Mapping[str, object]) -> None:
    try:
        signature.bind(*args, **keywords)
    except TypeError as error:
        raise TypeError(_sentence(name, signature.parameters, args, keywords, error)) from None


def _sentence(
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    args: Sequence[object],
    keywords: Mapping[str, object],
    error: TypeError,
) -> str:
    wrong = [keyword for keyword in keywords if keyword not in parameters]
    positional = [key for key, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if wrong:
        given = {**dict(zip(positional, args, strict=False)), **keywords}
        return f"{name} has no argument {_every(wrong, parameters, given)}"
    if len(args) > len(positional):
        return f"{name} takes {', '.join(positional)} by position and all else by name, got {len(args)} arguments"
    required = [key for key in positional[len(args) :] if parameters[key].default is inspect.Parameter.empty]
    missing = [key for key in required if key not in keywords]
    if missing:
        return f"{name} needs {missing[0]!r}" + (f", such as {_MAKERS[missing[0]]}" if missing[0] in _MAKERS else "")
    return f"{name}: {error}"


def _every(wrong: Sequence[str], parameters: Mapping[str, inspect.Parameter], given: Mapping[str, object]) -> str:
    """Name every wrong argument with what to say instead; those with the same advice stand together."""
    old = {name: given[name] for name in wrong if "guidance" in parameters and name in _GUIDANCE}
    names: dict[str, list[str]] = {}
    for name in wrong:
        names.setdefault(_guidance(old, given) if name in old else _instead(name, parameters), []).append(repr(name))
    return "; and no argument ".join(f"{' or '.join(group)}; {advice}" for advice, group in names.items())


def _guidance(old: Mapping[str, object], given: Mapping[str, object]) -> str:
    """Say what takes the place of old arguments that are fields of a Guidance: guidance_scale=3 is now guidance=3."""
    whole = is_dataclass(given.get("guidance"))  # a Guidance, whose module imports this one
    sources: dict[str, dict[str, str]] = {}
    for name, value in old.items():
        sources.setdefault(_GUIDANCE[name], {})[name] = _shown(value)
    if "guidance" in given and ("scale" in sources or not whole):
        sources.setdefault("scale", {})["guidance"] = _shown(given["guidance"])
    clashes = [
        field for field, each in sources.items() if len(each) > 1 and (len({*each.values()}) > 1 or _first(each) == "…")
    ]
    said = [f"{_keywords(sources[field], ' and ')} each give the {field}, so give one of them" for field in clashes]
    rest = {name: _shown(value) for name, value in old.items() if _GUIDANCE[name] not in clashes}
    if rest:
        fields = {field: "…" if field in clashes else _first(each) for field, each in sources.items()}
        if whole:
            kept = {field: value for field, value in fields.items() if field not in clashes}
            new = f"dataclasses.replace(guidance, {_keywords(kept)})"
        else:
            ordered = dict(sorted(fields.items(), key=lambda each: each[0] != "scale"))
            new = fields["scale"] if fields.keys() == {"scale"} else f"px.Guidance({_keywords(ordered)})"
        said.append(f"{_keywords(rest)} is now guidance={new}")
    return "; ".join(said)


def _first(values: Mapping[str, str]) -> str:
    return next(iter(values.values()))


def _keywords(values: Mapping[str, str], between: str = ", ") -> str:
    return between.join(f"{name}={value}" for name, value in values.items())


def _shown(value: object) -> str:
    """Return the repr of a short value, and "…" for any other."""
    short = value is None or isinstance(value, (bool, float, str, tuple, list))
    short = short or (isinstance(value, int) and abs(value) < 10**30)
    return repr(value) if short and len(repr(value)) <= 30 else "…"


def _instead(wrong: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    ours = [name for name in (*_OURS.get(wrong, ()), _GUIDANCE.get(wrong, "")) if name in parameters]
    if not ours:
        special = next((advice for name, advice in _WITH.get(wrong, {}).items() if name in parameters), None)
        if special or wrong in _OTHERWISE:
            return special or _OTHERWISE[wrong]
    ours = ours or difflib.get_close_matches(wrong, parameters, 1)
    if not ours:
        return f"its arguments are {', '.join(parameters)}"
    made = f", such as {_MAKERS[ours[0]]}" if ours[0] in _MAKERS else ""
    return f"the argument is {ours[0]!r}{made}"
