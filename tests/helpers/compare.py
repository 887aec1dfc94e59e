"""Our modules run on a golden's inputs, and the distance of their outputs and gradients from the golden's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from helpers.tolerances import relative_error
from reference.case import SCHEDULER, Case

from pixart_fn import guidance, rng, solvers, t5, transformer, tree, vae
from pixart_fn.backend import autodiff
from pixart_fn.checkpoint.layout import COMPONENTS
from pixart_fn.sample import iterate, sample

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

MODULE = 1e-5
"""One module in float32: the reference itself is within 1e-6 of its float64 run; the rest is order of summation."""

SAMPLING = 1e-4
"""Twenty guided steps: each adds a module's error, multiplied by the guidance scale."""

GRADIENT = 1e-4
"""A leaf's gradient: sums over tokens and pixels with cancellation; the reference's float64 run is 3e-6 away."""

NEGLIGIBLE = 1e-6
"""Share of the whole gradient under which a leaf is rounding noise: a key's bias, which softmax cancels."""

MODULES: dict[str, ModuleType] = {"t5": t5, "transformer": transformer, "vae": vae}

Values = dict[str, np.ndarray]


def rel(ours: Any, theirs: Any) -> float:
    """‖ours − theirs‖ / ‖theirs‖ in float64; infinite where the shapes differ or something isn't finite."""
    return relative_error(array(ours), array(theirs))


def too_far(errors: dict[str, float], tolerance: float) -> dict[str, float]:
    return {name: error for name, error in errors.items() if not error <= tolerance}


def array(x: Any) -> np.ndarray:
    return x.asnumpy() if isinstance(x, ms.Tensor) else np.asarray(x)


def tensors(weights: Values) -> Any:
    """The tree of a flat dict of arrays."""
    return tree.nest({name: ms.Tensor(value) for name, value in weights.items()})


def halves(weights: Values) -> Any:
    """`tensors` in float16, as `load(dtype="float16")` gives them."""
    dtype_of = COMPONENTS["text_encoder"].dtype_of  # the only model whose tensors aren't all of one dtype
    flat = {name: ms.Tensor(value, getattr(ms, dtype_of(name, "float16"))) for name, value in weights.items()}
    return tree.nest(flat)


def module_of(name: str) -> ModuleType:
    """The module that a case "vae_deep" or "gradients_vae" is about."""
    return MODULES[name.removeprefix("gradients_").split("_")[0]]


def forward_errors(name: str, case: Case, scenario: str) -> dict[str, float]:
    """Distances of a module's outputs, or of the latents after each step of "sampling"."""
    values, params = case.values[scenario], tensors(case.weights)
    config = module_of(name).read_config(case.config)
    if scenario == "sampling":
        return sampling_errors(params, config, values)
    outputs = run(module_of(name), params, config, values)
    assert {key for key in values if key.startswith("block.")} <= outputs.keys()
    return {key: rel(output, values[key]) for key, output in outputs.items()}


def run(module: ModuleType, params: Any, config: Any, values: Values) -> dict[str, ms.Tensor]:
    """A module's outputs, and each block's under "block.0", … where it is a stack of them."""
    inputs = {key: ms.Tensor(value) for key, value in values.items()}
    if module is t5:
        with recorded(t5) as blocks:
            states = t5.encode(params, config, inputs["ids"], inputs["mask"])
        return {"states": states, **blocks}
    if module is transformer:
        names = ("x", "t", "text", "mask", "resolution", "aspect_ratio")
        collect = [f"block{i}" for i in range(config.num_layers)]
        given = {key: inputs[key] for key in names if key in inputs}
        out, blocks = transformer.apply(params, config, **given, collect=collect)
        return {"out": out, **{name.replace("block", "block."): x for name, x in blocks.items()}}
    moments = vae.encode(params, config, inputs["x"])
    return {"mean": moments.mean, "logvar": moments.logvar, "decoded": vae.decode(params, config, inputs["z"])}


@contextmanager
def recorded(module: ModuleType) -> Iterator[dict[str, ms.Tensor]]:
    """Collect what the module's blocks return: a hook, which functions have no other place for."""
    block, seen = module._block, {}

    def keep(*args: Any, **kwargs: Any) -> ms.Tensor:
        seen[f"block.{len(seen)}"] = result = block(*args, **kwargs)
        return result

    with mock.patch.object(module, "_block", keep):
        yield seen


def guided(params: Any, config: Any, schedule: Any, text: Any, mask: Any, null: Any, null_mask: Any) -> Callable:
    """The denoiser of the reference's sampling runs: classifier-free guidance 4.5."""

    def branch(text: Any, mask: Any) -> Callable:
        def model(x: Any, t: float) -> Any:
            times = ms.Tensor(np.full(x.shape[0], t, np.float32))
            return transformer.apply(params, config, x, times, text, mask)

        return guidance.denoiser(model, schedule)

    conditional = branch(text, mask)
    return guidance.guided(4.5, conditional, guidance.both(conditional, branch(null, null_mask)))


def sampling_errors(params: Any, config: Any, values: Values) -> dict[str, float]:
    schedule, make_grid, solver, _ = solvers.from_config(SCHEDULER)
    conditions = [ms.Tensor(values[key]) for key in ("text", "mask", "null", "null_mask")]
    denoise = guided(params, config, schedule, *conditions)
    steps = iterate(rng.key(0), denoise, solver, make_grid(20), ms.Tensor(values["path"][0]))
    return {f"step {i}": rel(info.x, values["path"][i]) for i, info in enumerate(steps, 1)}


def output(name: str, config: Any, scenario: str, values: Values) -> Callable[[Any], ms.Tensor]:
    """The function whose gradient a golden holds: of a tree with "params" and inputs, to a Tensor like its "w"."""
    fixed = {key: ms.Tensor(value) for key, value in values.items()}
    if scenario == "three_steps":
        schedule, make_grid, solver, _ = solvers.from_config(SCHEDULER)

        def three_steps(p: Any) -> ms.Tensor:
            conditions = (p["text"], fixed["mask"], p["null"], fixed["null_mask"])
            denoise = guided(p["params"], config, schedule, *conditions)
            return sample(rng.key(0), denoise, solver, make_grid(3), p["x"])

        return three_steps
    if module_of(name) is t5:
        return lambda p: t5.encode(p["params"], config, fixed["ids"], fixed["mask"])
    if module_of(name) is transformer:
        rest = {key: fixed[key] for key in ("t", "mask", "resolution", "aspect_ratio") if key in fixed}
        return lambda p: transformer.apply(p["params"], config, x=p["x"], text=p["text"], **rest)
    if scenario == "decode":
        return lambda p: vae.decode(p["params"], config, p["z"])
    return lambda p: ms.ops.stack(tuple(vae.encode(p["params"], config, p["x"])))


def gradient_errors(name: str, case: Case, scenario: str) -> dict[str, float]:
    """Distances of Σ output·w and of its gradient by leaf."""
    values = case.values[scenario]
    theirs = {key.removeprefix("grad/"): value for key, value in values.items() if key.startswith("grad/")}
    f, w = output(name, module_of(name).read_config(case.config), scenario, values), ms.Tensor(values["w"])
    leaves = {key: ms.Tensor(values[key]) for key in theirs if not key.startswith("params.")}
    value, gradients = autodiff.value_and_grad(lambda p: (f(p) * w).sum())({"params": tensors(case.weights), **leaves})
    return {"value": rel(value, values["value"]), **leaf_errors(dict(tree.items(gradients)), theirs)}


def leaf_errors(ours: dict[str, Any], theirs: Values) -> dict[str, float]:
    """Distances by leaf; infinite where a leaf is missing, or isn't zero although the reference's (nearly) is."""
    total = np.sqrt(sum(np.linalg.norm(gradient.astype(np.float64)) ** 2 for gradient in theirs.values()))
    errors = {name: float("inf") for name in theirs if name not in ours}
    for name, gradient in ours.items():
        if name in theirs and np.linalg.norm(theirs[name]) >= NEGLIGIBLE * total:
            errors[name] = rel(gradient, theirs[name])
        elif not np.linalg.norm(array(gradient)) < 10 * NEGLIGIBLE * total:
            errors[name] = float("inf")
    return errors
