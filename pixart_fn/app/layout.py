"""What is on the page, and which function answers which control."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gradio as gr

from ..control import Net
from ..params import Params
from ..solvers import SOLVERS
from . import choices, words
from .answers import Answers
from .drawing import Model
from .limits import Limits
from .preview import preview
from .styles import NONE, STYLES

IMAGES = [".png", ".jpg", ".jpeg", ".webp"]


class Results(NamedTuple):
    """The controls that show what was drawn."""

    stage: Any
    shown: Any
    gallery: Any
    details: Any
    download: Any
    beside: Any
    kept: Any


def build(params: Params, controlnet: Net | None, limits: Limits, loaded: Mapping[str, Any]) -> gr.Blocks:
    """Build the page from arguments that are checked already."""
    table = choices.offered(params, limits.pixels)
    answers = Answers(Model(params, preview(params), controlnet), limits, loaded)
    with gr.Blocks(title="pixart_fn", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.HTML('<h1 id="title">pixart_fn<small>text to image</small></h1>', padding=False)
        with gr.Row(elem_id="asking"):
            prompt = gr.Textbox(
                "",
                label="Prompt",
                placeholder="a cat on a blue background",
                lines=1,
                max_lines=6,
                scale=5,
                autofocus=True,
            )
            draw = gr.Button("Draw", variant="primary", scale=0, elem_id="draw")
            cancel = gr.Button("Cancel", interactive=False, scale=0, elem_id="cancel")
        with gr.Row(elem_id="main"):
            with gr.Column(scale=3, min_width=320):
                results = _results(answers, limits)
            with gr.Column(scale=2, min_width=320):
                given = {"prompt": prompt, **_usual(params, table, limits), **_sampling(params, limits)}
                given |= _more(controlnet is not None)
        _connect(answers, given, results, draw, cancel)
        given["source"].change(answers.paintable, given["source"], given["editor"], **_SAID)
        if controlnet is not None:
            given["control"].change(answers.edges, [given["control"], given["size"]], given["edge_map"], **_SAID)
            given["size"].change(answers.edges, [given["control"], given["size"]], given["edge_map"], **_SAID)
        blocks.unload(answers.leave)
    return blocks


_SAID: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""How events are answered whose errors are shown, which gradio does for those in its queue alone."""
_AT_ONCE = _SAID | {"queue": False}


def _results(answers: Answers, limits: Limits) -> Results:
    """Lay out what is drawn; what is empty isn't shown."""
    stage = gr.HTML(words.START, elem_id="stage", padding=False)
    with gr.Column(visible=False) as shown:
        gallery = gr.Gallery(
            label="Drawn so far, newest first", elem_id="gallery", columns=4, height="auto", object_fit="contain",
            allow_preview=False,
            interactive=False, format="png", buttons=["fullscreen"],
        )  # fmt: skip
        details = gr.HTML(elem_id="details", padding=False)
        download = gr.DownloadButton("Download the PNG with its settings", elem_id="download", size="md")
        beside = gr.File(
            label="What it was drawn from; keep these beside the PNG", file_count="multiple", interactive=False,
            visible=False, elem_id="beside",
        )  # fmt: skip
    kept = gr.State([], time_to_live=6 * 3600, delete_callback=answers.forget)
    return Results(stage, shown, gallery, details, download, beside, kept)


def _usual(params: Params, table: list[tuple[int, int]], limits: Limits) -> dict[str, Any]:
    """Lay out what is chosen for most pictures."""
    named = [(choices.label(size), f"{size[0]}x{size[1]}") for size in table]
    height, width = choices.own(params, table)
    style = gr.Dropdown(list(STYLES), value=NONE, label="Style", elem_id="style")
    size = gr.Dropdown(named, value=f"{height}x{width}", label="Size", elem_id="size")
    n = gr.Slider(
        1, limits.pictures, value=1, step=1, label="Number of pictures", elem_id="n", visible=limits.pictures > 1
    )
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, elem_id="seed", min_width=140)
        randomise = gr.Checkbox(True, label="Randomise the seed", elem_id="randomise", min_width=140)
    return {"style": style, "size": size, "n": n, "seed": seed, "randomise": randomise}


def _sampling(params: Params, limits: Limits) -> dict[str, Any]:
    """Lay out how the picture is drawn."""
    call = params.config.call
    with gr.Accordion("More settings", open=False):
        negative = gr.Textbox("", label="Negative prompt", placeholder="what to steer away from", lines=1, max_lines=4)
        solver = gr.Dropdown([("the checkpoint's own", ""), *SOLVERS], value="", label="Solver", elem_id="solver")
        steps = gr.Slider(1, limits.steps, value=min(call.steps, limits.steps), step=1, label="Steps", elem_id="steps")
        guidance = gr.Slider(1, 20, value=call.guidance, step=0.1, label="Guidance", info="1 turns it off.")
    return {"negative": negative, "solver": solver, "steps": steps, "guidance": guidance}


def _more(follows: bool) -> dict[str, Any]:
    """Lay out what is drawn from files."""
    with gr.Accordion("Draw from a picture", open=False, elem_id="from"):
        source = gr.File(label="Picture: PNG, JPEG or WebP", file_types=IMAGES, height=140, elem_id="source")
        editor = gr.ImageEditor(
            label="Paint what changes",
            type="pil", sources=[], transforms=[], layers=False, height=360, format="png", visible=False,
            brush=gr.Brush(default_size=20, colors=["#2563eb"], color_mode="fixed"), elem_id="editor", buttons=[],
        )  # fmt: skip
        strength = gr.Slider(
            0, 1, value=0.6, step=0.05, label="Strength",
            info="0 keeps the picture. Take about 0.6 for all of it, and 1 for what you have painted over.",
        )  # fmt: skip
    given = {"source": source, "editor": editor, "strength": strength}
    if follows:
        with gr.Accordion("Follow the edges of a picture", open=False, elem_id="follow"):
            given["control"] = gr.File(
                label="Picture: PNG, JPEG or WebP", file_types=IMAGES, height=140, elem_id="control"
            )
            given["edge_map"] = gr.Image(
                label="Its edges", interactive=False, visible=False, height=220, buttons=[], format="png",
                elem_id="edge_map",
            )  # fmt: skip
            given["control_scale"] = gr.Slider(0, 2, value=1, step=0.05, label="How closely to follow them")
    with gr.Accordion("LoRA", open=False, elem_id="lora"):
        given["lora"] = gr.File(label="A .safetensors file", file_types=[".safetensors"], height=140)
        given["weight"] = gr.Slider(-2, 2, value=1, step=0.05, label="Weight of the LoRA")
    return given


def _connect(answers: Answers, given: dict[str, Any], results: Results, draw: Any, cancel: Any) -> None:
    """Say what happens on which event."""
    names = [name for name in given if name not in ("randomise", "edge_map")]
    inputs = [given[name] for name in names]
    busy = [draw, cancel]
    begun = gr.on(
        [draw.click, given["prompt"].submit, given["negative"].submit],
        answers.begin,
        [given["seed"], given["randomise"]],
        [given["seed"], results.stage, *busy],
        **_AT_ONCE,
    )
    drawn = begun.success(answers.drawer(names), [results.kept, *inputs], [*results, *busy], **_SAID)
    drawn.failure(answers.free, results.stage, [results.stage, *busy], **_AT_ONCE)
    cancel.click(answers.cancel, None, results.stage, **_AT_ONCE)
    shown = [results.stage, results.details, results.download, results.beside]
    results.gallery.select(answers.select, results.kept, shown, **_AT_ONCE)
