"""Text to picture: `generate` puts the stages of `stages` together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, overload

import numpy as np
from mindspore import Tensor, ops
from numpy.typing import NDArray
from PIL import Image

from .backend import autodiff
from .checks import check_option, check_whole
from .control import Control
from .estimate import check_results, longest, pictures_at_once, slices
from .guidance import Guidance, Scale
from .models import vae
from .params import Params
from .process.lock import exclusive
from .public import public
from .request import (
    Picture,
    Request,
    Sampling,
    binned_size,
    check_params,
    check_switches,
    picture_size,
    request,
    text_length,
    texts,
    vae_config,
)
from .stages import decode, encode_prompt, run
from .types import Array, Grid, Key, Solver, StepInfo, Text

if TYPE_CHECKING:
    from typing_extensions import Unpack

OUTPUTS = ("pil", "numpy", "latents")


class Options(TypedDict, total=False):
    """The arguments of `generate` that don't change the type of its result, for a type checker."""

    negative_prompt: str | Sequence[str]
    steps: int | None
    guidance: Guidance | Scale | None
    height: int | None
    width: int | None
    solver: Solver | str | None
    grid: Grid | None
    latents: Array | None
    clean: bool
    tokens: int | None
    binning: bool
    tile: int | None
    check: bool
    memory: float | None
    controls: Control | Sequence[Control] | None
    on_step: Callable[[StepInfo], object] | None
    progress: bool


@overload
def generate(
    params: Params,
    prompt: str | Sequence[str],
    key: Key,
    *,
    output: Literal["latents"],
    images_per_prompt: int = 1,
    **options: Unpack[Options],
) -> Tensor: ...
@overload
def generate(
    params: Params,
    prompt: str | Sequence[str],
    key: Key,
    *,
    output: Literal["numpy"],
    images_per_prompt: int = 1,
    **options: Unpack[Options],
) -> NDArray[np.float32]: ...
@overload
def generate(
    params: Params,
    prompt: str,
    key: Key,
    *,
    output: Literal["pil"] = "pil",
    images_per_prompt: Literal[1] = 1,
    **options: Unpack[Options],
) -> Picture: ...
@overload
def generate(
    params: Params,
    prompt: list[str] | tuple[str, ...],
    key: Key,
    *,
    output: Literal["pil"] = "pil",
    images_per_prompt: int = 1,
    **options: Unpack[Options],
) -> list[Picture]: ...
@overload
def generate(
    params: Params,
    prompt: str | Sequence[str],
    key: Key,
    *,
    output: Literal["pil"] = "pil",
    images_per_prompt: int = 1,
    **options: Unpack[Options],
) -> Picture | list[Picture]: ...
@public
def generate(
    params: Params,
    prompt: str | Sequence[str],
    key: Key,
    *,
    negative_prompt: str | Sequence[str] = "",
    steps: int | None = None,
    guidance: Guidance | Scale | None = None,
    height: int | None = None,
    width: int | None = None,
    solver: Solver | str | None = None,
    grid: Grid | None = None,
    images_per_prompt: int = 1,
    latents: Array | None = None,
    output: str = "pil",
    clean: bool = True,
    tokens: int | None = None,
    binning: bool = True,
    tile: int | None = None,
    check: bool = True,
    memory: float | None = None,
    controls: Control | Sequence[Control] | None = None,
    on_step: Callable[[StepInfo], object] | None = None,
    progress: bool = True,
) -> Picture | list[Picture] | NDArray[np.float32] | Tensor:
    """Draw pictures of what the prompts say.

    Args:
        params: from `load`.
        prompt: one prompt or several; an empty one is allowed.
        key: one key (2,), or (B, 2) with one key per picture. One key for several pictures stands for `split(key, B)`,
            so picture i of a batch is the picture that `split(key, B)[i]` gives alone.
        negative_prompt: what to steer away from, one string for all prompts or one for each.
        steps: the number of steps of the solver, at least 1; None takes what the checkpoint was trained or distilled
            for, `params.config.call`: 20 for most.
        guidance: a `px.Guidance`, or its scale alone: w of classifier-free guidance, a number, one number per picture,
            or a function of t that gives either; None takes the checkpoint's own, 4.5 for most. With 1, the negative
            prompt isn't evaluated. A scale alone guides at the times that the checkpoint says,
            `params.config.call.interval`: from 500 on for the embedded one, all for others.
        height: the picture's height in pixels, a multiple of the patch unless there is binning; None takes the model's
            own.
        width: the picture's width in pixels, likewise.
        solver: a Solver or the name of one in `px.solvers`, in place of the checkpoint's solver together with its
            clipping or thresholding of x0; None takes the checkpoint's.
        grid: the nodes to visit, from `schedule.grid` or `rho_grid`, in place of `steps` of the checkpoint's spacing.
        images_per_prompt: how many pictures to draw of each prompt; those of one prompt follow each other.
        latents: the noise to start from, float32 (B, C, h, w), in place of the key's.
        output: "pil", "numpy" (float32 (B, H, W, 3) in [0, 1]) or "latents" (Tensor (B, C, h, w)).
        clean: whether to clean captions as the released models' training did; False lower-cases and strips them, as
            diffusers does.
        tokens: the most tokens of a prompt, as in `encode_prompt`; None takes the checkpoint's own.
        binning: whether a released model draws at the nearest size that it was trained at; the picture, which may then
            be of any size, is resized and cropped from that. A model without a table of sizes draws the size directly.
        tile: the side, in pixels, of the overlapping squares to decode in, for pictures that don't fit in memory; None
            decodes in one piece.
        check: whether to raise an error where a stage's result isn't finite.
        memory: the most bytes that this process may take; None takes what the system and its control groups leave. As
            many pictures are drawn together as fit, which changes none of them, and `on_step` is called for each such
            part in turn.
        controls: what steers the pictures beside the prompts: one ControlNet with what it follows, or several, whose
            effects are added up, from `px.controlnet.control`. All branches of guidance see them.
        on_step: a function that is called after each step with its StepInfo, whose arrays it mustn't change; its result
            is ignored.
        progress: whether to show a bar.
    Returns:
        For output "pil", one PIL picture if there is one prompt, as a string, and one picture of it, and otherwise a
            list. For the other outputs, an array or a Tensor.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above, and the sentence says what is valid; or a stage's result isn't
            finite, and the sentence names the stage, the step and t.
        MemoryError: one picture doesn't fit into memory, and the sentence says what would.
    Example:
        >>> image = px.generate(px.load(), "a cat", px.key(0), steps=2)
        >>> image.size
        (128, 128)
    """
    autodiff.refuse_recording("generate", "differentiate encode_prompt, sample_latents and decode_latents instead")
    check_output(params, output, tile, clean=clean, binning=binning)
    prompts, negatives = as_prompts(prompt, negative_prompt, images_per_prompt)
    wanted, drawn = binned_size(params, height, width) if binning else (picture_size(params, height, width),) * 2
    total = len(prompts) * images_per_prompt
    kept = check_results(params, total, wanted, output, memory)
    given = Sampling(steps, guidance, solver, grid, latents, check, on_step, progress, controls)
    plan = request(params, total, key, drawn, given)
    negatives = negatives if plan.guidance.compares else []
    count = at_once(params, plan, [*prompts, *negatives], tokens, tile, kept, memory)
    both, parts = encode_both(params, prompts, negatives, clean, tokens, check, memory), []
    for rows in slices(total, count):
        z = run(params, plan.part(rows), *texts_of(rows, images_per_prompt, *both))
        parts.append(_finished(params, z, output, tile, None if drawn == wanted else wanted, check))
    return together(parts, alone=isinstance(prompt, str) and images_per_prompt == 1)


Part: TypeAlias = list[Picture] | NDArray[np.float32] | Tensor


@exclusive
def _finished(
    params: Params, z: Tensor, output: str, tile: int | None, size: tuple[int, int] | None, check: bool
) -> Part:
    """Return what the user asked for of some latents."""
    if output == "latents":
        return z
    pixels: NDArray[np.float32] = decode(params, z, tile, size, check).asnumpy()
    if output == "numpy":
        return pixels
    return [Image.fromarray((255 * picture).round().astype(np.uint8)) for picture in pixels]


@exclusive
def together(parts: list[Any], alone: bool) -> Picture | Part:
    """Put the parts of a batch together, which are all of one kind; a picture alone isn't in a list."""
    first: Part = parts[0]
    if isinstance(first, list):
        pictures = [picture for part in parts for picture in part]
        return pictures[0] if alone else pictures
    if len(parts) == 1:
        return first
    return np.concatenate(parts) if isinstance(first, np.ndarray) else ops.cat(parts, 0)


def at_once(
    params: Params,
    plan: Request,
    texts: list[str],
    tokens: int | None,
    tile: int | None,
    kept: int,
    memory: float | None,
) -> int:
    """Return how many pictures of a request fit into memory together."""
    how = {"tile": tile, "tokens": longest(texts, text_length(params, tokens)), "texts": len(texts), "kept": kept}
    return pictures_at_once(params, len(plan.keys), plan.size, plan.branches, memory, controls=plan.controls, **how)


@exclusive
def texts_of(rows: slice, n: int, text: Text, negative: Text | None) -> tuple[Text, Text | None]:
    """Return the texts of some pictures, of which n follow each other for each prompt; one row is for all."""

    def some(text: Text) -> Text:
        if n == 1 and rows == slice(0, len(text.mask)):
            return text
        prompts = np.arange(rows.start, rows.stop, dtype=np.int32) // n % len(text.mask)
        return Text(*(ops.gather(part, Tensor.from_numpy(prompts), 0) for part in text))

    return some(text), None if negative is None else some(negative)


def as_prompts(
    prompt: str | Sequence[str], negative_prompt: str | Sequence[str], n: int
) -> tuple[list[str], list[str]]:
    """Return the prompts, and the negative prompts, of which there must be one or as many."""
    check_whole("images_per_prompt", n, 1)
    prompts, negatives = texts("prompt", prompt), texts("negative_prompt", negative_prompt)
    if len(negatives) not in (1, len(prompts)):
        raise ValueError(
            f"negative_prompt must be one string, or one for each prompt ({len(prompts)}), got {len(negatives)}"
        )
    return prompts, negatives


@exclusive
def encode_both(
    params: Params,
    prompts: list[str],
    negatives: list[str],
    clean: bool,
    tokens: int | None,
    check: bool,
    memory: float | None,
) -> tuple[Text, Text | None]:
    """Encode all prompts at once; return those of the prompts, and those of the negative prompts if there are any."""
    every = [*prompts, *negatives]
    both = encode_prompt(params, every, clean=clean, tokens=tokens, check=check, memory=memory)
    text, negative = (Text(*rows) for rows in zip(*((x[: len(prompts)], x[len(prompts) :]) for x in both), strict=True))
    return text, negative if negatives else None


def check_output(params: Params, output: str, tile: int | None, **switches: bool) -> None:
    check_params(params)
    check_switches(**switches)
    check_option("output", output, OUTPUTS)
    if output == "latents" and tile is not None:
        raise ValueError(f"tile={tile} is for decoding pictures, and output='latents' decodes none; leave tile out")
    if output != "latents":
        config = vae_config(params)
        if tile is not None:
            vae.check_tile(config, tile)
