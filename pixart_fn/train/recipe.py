"""A recipe: everything that decides a training, read from a TOML file whose every field is checked."""

from __future__ import annotations

import dataclasses
import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

from .. import config as config_
from ..checkpoint.sources import written
from ..checks import check_type, first_few, shown
from ..config import Check, whole
from ..files import reading
from ..public import public
from ..types import Json
from . import fields as fields_
from . import rules
from .fields import Field

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Count: TypeAlias = Annotated[int, whole(1, 2**31)]
Steps: TypeAlias = Annotated[int, whole(0, 2**31)]
Seed: TypeAlias = Annotated[int, whole(0, 2**63 - 1)]
Share: TypeAlias = Annotated[float, Check("within 0 … 1", lambda v: 0 <= v <= 1)]
Beta: TypeAlias = Annotated[float, Check("within 0 … 1, below 1", lambda v: 0 <= v < 1)]
AtLeast0: TypeAlias = Annotated[float, Check("of at least 0", lambda v: v >= 0)]
Above0: TypeAlias = Annotated[float, Check("above 0", lambda v: v > 0)]
EMBEDDED = "embedded"
"""The model.start that is the checkpoint of this package."""
__all__ = ["Recipe", "fields", "make", "names", "read"]

Texts: TypeAlias = tuple[str, ...]


def _help(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Model:
    """What is trained, and from where."""

    start: str | None = _help(None, 'a pipeline\'s folder or hub id; "embedded", and none: the embedded checkpoint')
    transformer: str | None = _help(
        None, "folder or hub id of a transformer in place of start's, as of the stage before"
    )
    variant: str | None = _help(None, "variant of the weights' files, such as fp16")
    init: Literal["start", "random", "dit"] = _help(
        "start", "the first weights: those of start or transformer, random ones, or a class-conditional DiT's"
    )
    dit: str | None = _help(None, 'a DiT in diffusers layout, for init = "dit"')
    sample_size: Annotated[int, whole(1, 2**14)] | None = _help(None, "side of the latents; none: that of start")
    interpolation_scale: Above0 | None = _help(None, "scale of positions; none: they span the range of start's")
    conditions: bool | None = _help(None, "whether resolution and aspect ratio are inputs; none: as in start")
    train: Literal["transformer", "lora", "controlnet"] = _help(
        "transformer", "what is trained: the whole transformer, an adapter, or a ControlNet"
    )
    controlnet: str | None = _help(None, "a ControlNet to train further; none: a new one without an effect")
    copied: Annotated[int, whole(1, 1000)] | None = _help(
        None, "blocks that a new ControlNet copies; none: nearly half, 13 of 28"
    )


@dataclasses.dataclass(frozen=True)
class LoRA:
    """The adapter, where model.train is "lora"."""

    rank: Annotated[int, whole(1, 2**16)] = _help(16, "rank of the adapter's matrices")
    alpha: Above0 = _help(16.0, "the update is multiplied by alpha / rank")
    targets: Texts | None = _help(None, "names of modules; none: the attentions' projections")
    dora: bool = _help(False, "whether to train magnitudes too (DoRA)")
    rslora: bool = _help(False, "whether the update is multiplied by alpha / √rank instead (rsLoRA)")


@dataclasses.dataclass(frozen=True)
class Data:
    """What it sees."""

    path: str = _help("", "a folder that `pixart-fn prepare` wrote, or the authors' features")
    kind: Literal["prepared", "alpha", "sigma"] = _help("prepared", "what path is: prepared, or the features of α or Σ")
    resolution: Annotated[int, whole(8, 2**14)] | None = _help(None, "resolution of the authors' features, in pixels")
    multiscale: bool = _help(False, "whether the authors' features have many sizes")
    real_prompt_ratio: Share | None = _help(None, "for Σ's features: how often the original caption is taken")
    batch_size: Count = _help(16, "examples per step, of all workers together")
    dropout: Share = _help(0.1, "how often a caption is replaced by the empty prompt")
    sample: bool = _help(True, "whether latents are drawn from the VAE's posterior; false: its mean is taken")
    control: str | None = _help(None, "a second prepared folder with the same pictures' edges (for a ControlNet)")
    prior: str | None = _help(None, "a second prepared folder with pictures of the class (for DreamBooth)")
    prior_weight: AtLeast0 = _help(1.0, "weight of an example of the class in the loss")


@dataclasses.dataclass(frozen=True)
class Loss:
    """What is made small."""

    kind: Literal["diffusion", "lcm"] = _help("diffusion", "the loss; lcm distils start into a model of few steps")
    prediction: Literal["epsilon", "x0", "v"] | None = _help(None, "what is predicted; none: as start's scheduler says")
    learned_variance: bool | None = _help(None, "whether a variance is trained; none: if there are channels for it")
    weighting: Literal["none", "snr", "min_snr"] = _help("none", "weight of the loss by the SNR at each time")
    gamma: Above0 = _help(5.0, "γ of the weighting min_snr")
    huber: Above0 | None = _help(None, "c of the pseudo-Huber distance; none: the squared error, or c = 0.001 for lcm")
    noise_offset: AtLeast0 = _help(0.0, "how much of one number per channel is added to the noise")
    times: Literal["uniform", "logit_normal", "importance"] = _help("uniform", "how times are drawn")
    guidance: AtLeast0 = _help(5.5, "scale of guidance of LCM's teacher; 5.5 is what the authors call 4.5")
    ddim_steps: Count = _help(50, "steps of DDIM of LCM's teacher")


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """How it is made small."""

    name: Literal["adamw", "lion", "came", "adafactor", "sgd"] = _help("adamw", "the optimiser")
    lr: AtLeast0 = _help(2e-5, "highest learning rate")
    schedule: Literal["constant", "linear", "cosine", "stable"] = _help("constant", "learning rate after the warm-up")
    warmup: Steps = _help(0, "steps in which the learning rate rises from 0")
    weight_decay: AtLeast0 = _help(0.03, "weight decay, for weights with two axes or more")
    clip: AtLeast0 = _help(0.01, "norm to which gradients are clipped; 0: no clipping")
    b1: Beta | None = _help(None, "β of the first moment, not for sgd; none: the optimiser's own")
    b2: Beta | None = _help(None, "β of the second moment of adamw, lion and came; none: the optimiser's own")
    eps: Above0 | None = _help(None, "ε of adamw; none: its own")
    momentum: Beta | None = _help(None, "momentum of sgd; none: 0")


@dataclasses.dataclass(frozen=True)
class Run:
    """How long, how fast, and where to."""

    out: str = _help("", "the run's folder: state, metrics, samples, and at the end the pipeline or adapter")
    steps: Steps = _help(1000, "steps of the whole run")
    minutes: AtLeast0 | None = _help(None, "the most minutes of this call; none: no limit")
    save_every_minutes: AtLeast0 = _help(5.0, "minutes between two saves, which a killed run can lose")
    seed: Seed = _help(0, "seed of all random numbers")
    accumulate: Count = _help(1, "into how many parts a worker's batch is divided, to save memory")
    recompute: bool = _help(True, "compute blocks again for the gradient, which takes less memory and more time")
    dtype: Literal["float32", "float16", "bfloat16"] = _help("float32", "type in which the transformer computes")
    save: Literal["pipeline", "transformer"] = _help("pipeline", "what is written at the end")
    ema: Beta = _help(0.9999, "decay of the weights' moving average; 0: no average")
    ema_warmup: bool = _help(True, "whether the decay is at most (1 + step) / (10 + step)")


@dataclasses.dataclass(frozen=True)
class Samples:
    """Pictures on the way."""

    every: Steps = _help(0, "steps between two sheets of pictures; 0: no sheets")
    prompts: Texts = _help((), "prompts of the pictures, at least one if every is above 0")
    steps: Count = _help(20, "steps of the solver")
    guidance: AtLeast0 = _help(4.5, "scale of guidance")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a training; `read` makes it from a file, and `pixart-fn train --help` lists it.

    Args:
        model: what is trained, and with which weights it begins.
        lora: the adapter, if one is trained.
        data: the pictures and captions.
        loss: the loss.
        optimiser: the optimiser and its learning rate.
        run: how long the training is, how it computes, and where its files are written.
        samples: pictures that are drawn during the training.
    """

    model: Model = Model()
    lora: LoRA = LoRA()
    data: Data = Data()
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    run: Run = Run()
    samples: Samples = Samples()


SECTIONS: dict[str, type[Any]] = get_type_hints(Recipe)


FREE = {
    *("data.path", "data.control", "data.prior", "run.out", "run.steps", "run.minutes", "run.save_every_minutes"),
    *("run.accumulate", "run.recompute", "run.save"),
}
"""Fields that may differ when a run goes on."""


@public
def read(source: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        source: a .toml file, or the name of a recipe of this package (`names`).
        changes: values by "section.field", which come before the file's; None takes a field out of the file's.
    Returns:
        The recipe.
    Raises:
        FileNotFoundError: there is no such file, and no such recipe.
        TypeError: source isn't a name or a path.
        ValueError: the file isn't TOML, or fields are unknown, out of their range, or contradict each other.
    """
    written(source, "source", "a .toml file or the name of a recipe")
    check_type("changes", changes, (Mapping, type(None)), "a dict of values by 'section.field', or None")
    content = _content(source)
    known = {each.name: each for each in fields()}
    for name, value in (changes or {}).items():
        fields_.check_name(name, known)
        section, _, field = name.partition(".")
        if not isinstance(content.setdefault(section, {}), dict):
            raise ValueError(f"{section} of {source} must be a section of fields, got {shown(content[section])}")
        content[section][field] = value
        if value is None:
            del content[section][field]
    return make(content, str(source))


def names() -> dict[str, str]:
    """List the recipes of this package: what the first line of each says, by its name."""
    folder = resources.files(__package__) / "recipes"
    files = sorted(each.name for each in folder.iterdir() if each.name.endswith(".toml"))
    first = {name: (folder / name).read_text("utf-8").split("\n", 1)[0] for name in files}
    return {name.removesuffix(".toml"): line.removeprefix("#").strip() for name, line in first.items()}


def fields() -> list[Field]:
    """List the fields of a recipe, in their order."""
    return fields_.listed(SECTIONS)


def assigned(texts: Iterable[str]) -> dict[str, Any]:
    """Read assignments as a command line has them.

    Args:
        texts: such as "run.steps=500": the values are TOML, but texts may stand without quotes, and none is None.
    Returns:
        Values by "section.field", for `read`.
    Raises:
        ValueError: one isn't an assignment to a field, or its value isn't TOML.
    """
    known = {each.name: each for each in fields()}
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"an assignment is such as run.steps=500, got {shown(text)}")
        fields_.check_name(name, known)
        if value == "none":
            found[name] = None
            continue
        try:
            content = tomllib.loads(f"value = {value}")
        except (ValueError, RecursionError):  # no TOML, a number of thousands of digits, or lists in lists in lists
            content = {}
        if known[name].text and not isinstance(content.get("value"), str):
            content = {"value": value}
        if list(content) != ["value"]:
            raise ValueError(f"{name} must be a {known[name].kind} as TOML writes it, got {shown(value)}")
        found[name] = content["value"]
    return found


@public
def make(content: Json, where: str = "the recipe") -> Recipe:
    """Make a recipe of parsed TOML.

    Args:
        content: a dict of sections, each a dict of fields.
        where: what an error calls it.
    Returns:
        The recipe.
    Raises:
        TypeError, ValueError: it isn't one.
    """
    check_type("content", content, Mapping, "a dict of sections")
    check_type("where", where, str, "a text")
    unknown = [name for name in content if name not in SECTIONS]
    if unknown:
        raise ValueError(f"{where} has no section {shown(unknown[0])}; the sections are {', '.join(SECTIONS)}")
    made = {}
    for name, cls in SECTIONS.items():
        section = content.get(name, {})
        if not isinstance(section, Mapping):
            raise ValueError(f"{name} of {where} must be a section of fields, got {shown(section)}")
        made[name] = config_.read(cls, section, fixed={}, component=f"{where}, [{name}]")
    recipe = Recipe(**made)
    given = [f"{section}.{name}" for section in SECTIONS for name in content.get(section, {})]
    _check(recipe, where, given)
    return recipe


def identity(recipe: Recipe) -> dict[str, Any]:
    """Return the fields that decide the weights, by "section.field", which a run that goes on must have as it began.

    Where the data lies isn't among them, nor how many steps there are and how they are computed.
    """
    sections = dataclasses.asdict(recipe)
    fields = {f"{section}.{field}": value for section, own in sections.items() for field, value in own.items()}
    return {name: value for name, value in fields.items() if name not in FREE and not name.startswith("samples.")}


def _content(source: str | Path) -> dict[str, Any]:
    path = Path(source).expanduser()
    if str(source) in names():
        text = (resources.files(__package__) / "recipes" / f"{source}.toml").read_bytes()
    elif path.suffix == ".toml" or path.exists():
        text = reading.content(path)
    else:
        near = difflib.get_close_matches(str(source)[:80], names(), 1)
        advice = f"the nearest is {near[0]!r}" if near else f"write a .toml file, or take {first_few(names())}"
        raise FileNotFoundError(f"there is no recipe {shown(str(source))}; {advice}")
    try:
        content: dict[str, Any] = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # it isn't UTF-8, isn't TOML, or has lists in lists in lists
        raise ValueError(f"{source} isn't TOML: {error}") from None
    return content


def _check(recipe: Recipe, where: str, given: Iterable[str]) -> None:
    """Raise where fields contradict each other, or mean nothing beside others."""
    model, loss, own = recipe.model, recipe.loss, recipe.data
    for name, value in (("data.path", own.path), ("run.out", recipe.run.out)):
        if not value:
            raise ValueError(f"{where} must say {name}")
    if (model.init == "dit") != (model.dit is not None):
        raise ValueError(f'{where} must say model.dit where model.init is "dit", and only there')
    if model.train != "transformer" and model.init != "start":
        raise ValueError(f'{where} trains {model.train}, which needs model.init = "start"')
    if recipe.run.minutes is not None and math.isnan(recipe.run.minutes):
        raise ValueError(f"run.minutes of {where} must be a number")
    if loss.kind == "lcm" and not recipe.run.ema:
        raise ValueError(f"{where} distils, which needs a moving average: run.ema above 0, such as 0.95")
    rules.check_controlnet(recipe, where)
    if own.prior is not None and own.kind != "prepared":
        raise ValueError(f"data.prior of {where} needs a prepared folder as data.path too")
    if own.kind != "prepared" and own.resolution is None:
        raise ValueError(f"{where} must say data.resolution, that of the authors' features in pixels")
    if recipe.samples.every and not recipe.samples.prompts:
        raise ValueError(f"{where} must say samples.prompts where samples.every is above 0")
    parts = recipe.run.accumulate * (1 if own.prior is None else 2)
    if own.batch_size % parts:
        both = "" if own.prior is None else ", twice since there is data.prior"
        raise ValueError(
            f"data.batch_size of {where} must be a multiple of {parts} (run.accumulate{both}), got {own.batch_size}"
        )
    rules.check(recipe, where, given)
