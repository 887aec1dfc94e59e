"""From a recipe to a training: the parts that its fields name, put together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .. import checkpoint, rng, solvers
from ..backend.workers import ALONE, Workers
from ..checkpoint import controlnet, lora, lora_source
from ..checkpoint.save import check_savable
from ..checks import check_switch, check_type
from ..files.folder import check
from ..models import transformer
from ..params import Params
from ..public import public
from ..schedule import Schedule
from ..solvers.scheduler import PREDICTIONS, Options
from ..stages import encode_prompt
from ..types import Json, Key, Text, Tree
from . import data, distill, losses, objective, optim, reparameterise, rules, times, watch
from . import loop as loop_
from . import state as state_
from . import step as step_
from .batch import Batch
from .recipe import EMBEDDED, Recipe, identity
from .state import LossScale, TrainState

SCHEDULES: dict[str, Callable[[float, int, int], Callable[[int], float]]] = {
    "constant": lambda lr, warmup, steps: optim.warmup_constant(lr, warmup),
    "linear": lambda lr, warmup, steps: optim.warmup_linear(lr, steps, warmup),
    "cosine": lambda lr, warmup, steps: optim.warmup_cosine(lr, steps, warmup),
    "stable": lambda lr, warmup, steps: optim.warmup_stable_decay(lr, steps, warmup),
}

FOLDERS = {"transformer": "pipeline", "lora": "adapter", "controlnet": "controlnet"}
"""Where in run.out what was trained is written."""


class Job(NamedTuple):
    """What a recipe comes to.

    Args:
        params: the pipeline that the training starts from, without the transformer where state holds that.
        batches: step → batch.
        step: of the training.
        state: before the first step.
        identity: what must be the same when the run goes on: the recipe's fields, and what tells the data from others.
    """

    params: Params
    batches: Callable[[int], Batch]
    step: step_.Step
    state: TrainState
    identity: dict[str, Any]


@public
def run(recipe: Recipe, *, workers: Workers = ALONE, progress: bool = True) -> TrainState:
    """Train as a recipe says, or go on where its folder stands, and write what came of it.

    At the end, and when run.minutes are over, `run.out` holds state.safetensors and metrics.jsonl, the sheets in
    samples/, and the moving average's weights as pipeline/, adapter/ or controlnet/.

    Args:
        recipe: from `recipe.read`.
        workers: which part of the job this process is, as `workers.start` says.
        progress: whether to show a bar.
    Returns:
        The last state.
    Raises:
        TypeError, ValueError: the recipe doesn't fit the model or the data.
        NotFinite: as `loop.run`.
        OSError: a file can't be read or written.
    """
    check_type("recipe", recipe, Recipe, "a Recipe, as recipe.read gives")
    check_type("workers", workers, Workers, "a Workers, as workers.start() gives")
    check_switch("progress", progress)
    out = Path(recipe.run.out).expanduser()
    check(out)
    job = make(recipe, workers)
    shown = None
    if recipe.samples.every:
        options: dict[str, Any] = {"steps": recipe.samples.steps, "guidance": recipe.samples.guidance}
        shown = watch.samples(job.params, recipe.samples.prompts, out / "samples", recipe.samples.every, **options)
    state = loop_.run(
        job.step, job.state, job.batches, out, steps=recipe.run.steps,
        minutes=math.inf if recipe.run.minutes is None else recipe.run.minutes,
        save_every_minutes=recipe.run.save_every_minutes, settings={"recipe": dataclasses.asdict(recipe)},
        identity=job.identity,
        on_step=watch.together(shown, watch.tensorboard(out / "tensorboard") if workers.rank == 0 else None),
        workers=workers, progress=progress,
    )  # fmt: skip
    if workers.rank == 0:
        write(recipe, job.params, state)
    return state


@public
def make(recipe: Recipe, workers: Workers = ALONE) -> Job:
    """Load and build what a recipe names.

    Args:
        recipe: from `recipe.read`.
        workers: which part of the job this process is.
    Returns:
        The Job.
    Raises:
        TypeError, ValueError: the recipe doesn't fit the model or the data.
        OSError: a file can't be read.
    """
    check_type("recipe", recipe, Recipe, "a Recipe, as recipe.read gives")
    check_type("workers", workers, Workers, "a Workers, as workers.start() gives")
    own, optimiser = recipe.run, _optimiser(recipe)
    datasets = _opened(recipe, workers)
    start = checkpoint.load(None if recipe.model.start == EMBEDDED else recipe.model.start, **_parts(recipe))
    keys = rng.split(rng.key(own.seed), 3)
    params = _started(recipe, start, keys[0])
    _check_out(recipe, params)
    datasets = {path: _fitting(recipe, path, each, params) for path, each in datasets.items()}
    null = datasets[recipe.data.path].null
    if null is None and params.text_encoder is not None:
        null = encode_prompt(params, "")
    batches = _batches(recipe, datasets, params, null, workers)
    schedule = solvers.from_config(start.config.scheduler).schedule
    loss, sampler = _loss(recipe, params.config.transformer, schedule)
    weights, aim = _trained(recipe, params, loss, null, keys[1])
    average = optim.ema(own.ema, warmup=own.ema_warmup) if own.ema else None
    kept = sampler if sampler is not None and sampler.init() is not None else None
    scale = LossScale() if own.dtype == "float16" else None
    state = state_.init(weights, optimiser, keys[2], ema=average, times=kept, scale=scale)
    target = recipe.loss.kind == "lcm"
    step = step_.make(
        aim, optimiser, ema=average, accumulate=own.accumulate, times=kept, target=target, workers=workers
    )
    kept_params = params.replace(transformer=None) if recipe.model.train == "transformer" else params
    digests = [str(getattr(each, "options", {}).get("digest", "")) for each in datasets.values()]
    return Job(kept_params, batches, step, state, {**identity(recipe), "the data": digests})


@public
def write(recipe: Recipe, params: Params, state: TrainState) -> None:
    """Write what was trained into the run's folder: pipeline/, adapter/ or controlnet/.

    Args:
        recipe: of the run.
        params: the pipeline that it started from, which needs no transformer where that was trained.
        state: its last.
    Raises:
        TypeError: an argument has the wrong type.
        OSError: the folder can't be written.
    """
    check_type("recipe", recipe, Recipe, "a Recipe, as recipe.read gives")
    check_type("params", params, Params, "a pipeline, as px.load gives")
    check_type("state", state, TrainState, "a TrainState, as train.init makes")
    out = Path(recipe.run.out).expanduser() / FOLDERS[recipe.model.train]
    if recipe.model.train == "lora":
        lora.save(state.average, out)
    elif recipe.model.train == "controlnet":
        own = controlnet.Config.like(params.config.transformer, len(state.average["controlnet_blocks"]))
        controlnet.save(state.average, own, out)
    else:
        checkpoint.save(_kept(recipe, watch.with_average(params, state)), out)


def _parts(recipe: Recipe) -> dict[str, Any]:
    """Leave the text encoder and the VAE out where nothing needs them."""
    needed = bool(recipe.samples.every) or (recipe.run.save == "pipeline" and recipe.model.train == "transformer")
    named = {name: getattr(recipe.model, name) for name in ("transformer", "variant")}
    encodes = recipe.data.kind != "prepared" and (recipe.data.dropout > 0 or recipe.loss.kind == "lcm")
    return {
        **{name: value for name, value in named.items() if value is not None},
        **({} if needed or encodes else {"text_encoder": None}),
        **({} if needed else {"vae": None}),
    }


def _started(recipe: Recipe, params: Params, key: Key) -> Params:
    """The pipeline with the transformer that the training begins with."""
    model, config = recipe.model, params.config.transformer
    changes = {
        "sample_size": model.sample_size,
        "interpolation_scale": model.interpolation_scale,
        "use_additional_conditions": model.conditions,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    new, tree = reparameterise.resized(config, changes), params.transformer
    if model.init == "random":
        tree = transformer.init(key, new)
    elif model.init == "dit":
        tree = reparameterise.from_dit(key, new, str(model.dit))
    elif new != config:
        tree = reparameterise.with_conditions(key, tree, config, new)
    scheduler = _scheduler(recipe, params.config.scheduler)
    return params.replace(
        transformer=tree, config=dataclasses.replace(params.config, transformer=new, scheduler=scheduler)
    )


def _scheduler(recipe: Recipe, start: Json) -> dict[str, Any]:
    """What to draw with: as at the start, but for what the training changes, the prediction and LCM's few steps."""
    changed = dict(start)
    if recipe.loss.prediction is not None:
        changed["prediction_type"] = {ours: theirs for theirs, ours in PREDICTIONS.items()}[recipe.loss.prediction]
    if recipe.loss.kind == "lcm":
        kept = {field.name for field in dataclasses.fields(Options)}
        changed = {name: value for name, value in changed.items() if name in kept}
        changed |= {"_class_name": "LCMScheduler", "original_inference_steps": recipe.loss.ddim_steps}
    return changed


def _check_out(recipe: Recipe, params: Params) -> None:
    """Raise what `write` would raise at the end of the training."""
    out = Path(recipe.run.out).expanduser() / FOLDERS[recipe.model.train]
    if recipe.model.train == "transformer":
        check_savable(_kept(recipe, params), out)
    elif recipe.model.train == "controlnet":
        controlnet.check_out(out)
    elif (check(out) / lora_source.DIFFUSERS).exists():
        raise FileExistsError(f"folder {str(out)!r} holds an adapter in diffusers' layout; name a new run.out")


def _kept(recipe: Recipe, params: Params) -> Params:
    """What is written of a pipeline."""
    if recipe.run.save == "transformer":
        return params.replace(text_encoder=None, vae=None, tokenizer=None)
    return params


def _opened(recipe: Recipe, workers: Workers) -> dict[str, Any]:
    """Open the data by its paths, and raise where a batch can't be shared out."""
    own = recipe.data
    parts = workers.size * recipe.run.accumulate * (1 if own.prior is None else 2)
    if own.batch_size % parts:
        each = f"{workers.size} workers × run.accumulate = {recipe.run.accumulate}"
        both = "" if own.prior is None else " × 2 for data.prior"
        raise ValueError(f"data.batch_size must be a multiple of {parts} ({each}{both}), got {own.batch_size}")
    if own.kind == "prepared":
        return {path: data.prepared.open(path) for path in (own.path, own.control, own.prior) if path}
    features = data.authors.open(
        own.path, own.kind, own.resolution or 0, multiscale=own.multiscale, real_prompt_ratio=own.real_prompt_ratio
    )
    return {own.path: features}


def _fitting(recipe: Recipe, path: str, dataset: Any, params: Params) -> Any:
    """A dataset as the model reads it; raise where it is of another kind of model, or of another size."""
    config, vae, prepared = params.config.transformer, params.config.vae, recipe.data.kind == "prepared"
    if not prepared:
        dataset = dataclasses.replace(dataset, width=config.caption_channels, channels=config.in_channels)
    if not len(dataset):
        raise ValueError(f"{path!r} holds no example")
    first = dataset.example(0, 0.0)
    kinds = {
        "number of latent channels": (len(first.mean), config.in_channels),
        "width of text": (first.states.shape[1], config.caption_channels),
        "scaling factor of latents": (dataset.scale, vae.scaling_factor if vae else dataset.scale),
    }
    for name, (found, needed) in kinds.items():
        if found != needed:
            raise ValueError(
                f"{path!r} was prepared with another kind of model: its {name} is {found}, and this model's {needed};"
                f" {'prepare it with' if prepared else 'take features of'} this model"
            )
    _check_size(recipe, path, dataset, config.sample_size)
    return dataset


def _check_size(recipe: Recipe, path: str, dataset: Any, side: int) -> None:
    """Raise where all pictures are squares of another size than the model's, unless the recipe says its size."""
    sizes = {(h, w) for h, w in dataset.sizes.tolist()}
    h, w = min(sizes)
    if len(sizes) > 1 or h != w or h == side or recipe.model.sample_size is not None:
        return
    advice = "" if recipe.model.train != "transformer" else f", or say model.sample_size = {h}"
    raise ValueError(
        f"{path!r} holds latents of {h} × {w}, and this model's are of {side} × {side}; take data of that size{advice}"
    )


def _batches(
    recipe: Recipe, datasets: dict[str, Any], params: Params, null: Text | None, workers: Workers
) -> Callable[[int], Batch]:
    own, seed = recipe.data, recipe.run.seed
    options: dict[str, Any] = {
        "rank": workers.rank, "workers": workers.size, "dropout": own.dropout, "sample": own.sample,
        "conditions": params.config.transformer.conditions, "null": null,
    }  # fmt: skip
    if own.prior is None:
        batches = data.order.Batches(datasets[own.path], own.batch_size, seed, **options)
        return batches if own.control is None else data.controls.controlled(batches, datasets[own.control])
    half = own.batch_size // 2
    subject = data.order.Batches(datasets[own.path], half, seed, **options)
    prior = data.order.Batches(datasets[own.prior], half, seed + 1, **options)
    return data.order.mixed(subject, prior, own.prior_weight)


def _loss(recipe: Recipe, config: transformer.Config, schedule: Schedule) -> tuple[Any, Any]:
    """The loss of (predict, batch, key), or LCM's, and its sampler of times."""
    own = recipe.loss
    distance = "l2" if own.huber is None else losses.huber(own.huber)
    if own.kind == "lcm":
        extra: dict[str, Any] = {} if own.huber is None else {"distance": distance}
        return distill.lcm(schedule, own.prediction, own.ddim_steps, own.guidance, **extra), None
    weighting = {"none": None, "snr": losses.snr(), "min_snr": losses.min_snr(own.gamma)}[own.weighting]
    makers: dict[str, Callable[..., times.Times]] = {
        "uniform": times.uniform,
        "logit_normal": times.logit_normal,
        "importance": times.importance,
    }
    sampler = makers[own.times](steps=schedule.steps)
    variance = own.learned_variance
    if variance is None:
        variance = config.out_channels == 2 * config.in_channels
    made = losses.diffusion(schedule, own.prediction, variance, weighting, distance, own.noise_offset, sampler)
    return made, sampler


def _trained(recipe: Recipe, params: Params, loss: Any, null: Text | None, key: Key) -> tuple[Tree, Any]:
    """What is trained, and the loss of it."""
    tree, config = params.transformer, params.config.transformer
    options: dict[str, Any] = {"recompute": recipe.run.recompute, "dtype": recipe.run.dtype}
    adapter, model = None, recipe.model
    if model.train == "controlnet":
        made = controlnet.Config.like(config, model.copied or max((config.num_layers - 1) // 2, 1))
        begun = controlnet.load(model.controlnet) if model.controlnet else (controlnet.init(tree, config, made), made)
        return begun[0], objective.of_controlnet(tree, config, begun[1], loss, **options)
    if model.train == "lora":
        own = dataclasses.asdict(recipe.lora)
        if own["targets"] is None:
            del own["targets"]
        adapter = lora.init(key, tree, lora.Config(**own))
    if recipe.loss.kind == "lcm":
        assert null is not None  # `_parts` has loaded what encodes it
        return adapter or tree, objective.of_lcm(tree, config, loss, null, adapter=adapter is not None, **options)
    if adapter is not None:
        return adapter, objective.of_adapter(tree, config, loss, **options)
    return tree, objective.of_transformer(config, loss, **options)


def _optimiser(recipe: Recipe) -> optim.Transformation:
    own = recipe.optimiser
    schedule = SCHEDULES[own.schedule](own.lr, max(own.warmup, 1), recipe.run.steps)  # one step's rise is none
    options = {name: getattr(own, name) for name in rules.OF_OPTIMISERS[own.name] if getattr(own, name) is not None}
    made = optim.OPTIMISERS[own.name](schedule, weight_decay=own.weight_decay, **options)
    return optim.chain(optim.clip_by_global_norm(own.clip), made) if own.clip else made
