"""Each argument of each public function with a wrong type, a value out of range and an absurd one: a sentence each.

It comes before any graph is compiled and before any file of weights is opened. The rows are in `helpers.bad_rows`,
`bad_solvers`, `bad_calls` and `bad_files`, the values in `helpers.bad_values`.
"""

from __future__ import annotations

import inspect
import sys

import pytest
from helpers import (
    bad_calls,
    bad_controlnet,
    bad_convert,
    bad_data,
    bad_device,
    bad_edit,
    bad_files,
    bad_lora,
    bad_optim,
    bad_prompts,
    bad_rows,
    bad_solvers,
    bad_steps,
    bad_testing,
    bad_train,
)

import pixart_fn as px
from pixart_fn.backend import jit

PARTS = (
    bad_rows,
    bad_solvers,
    bad_calls,
    bad_files,
    bad_lora,
    bad_train,
    bad_data,
    bad_steps,
    bad_optim,
    bad_controlnet,
    bad_convert,
    bad_device,
    bad_edit,
    bad_prompts,
    bad_testing,
)
ROWS = [row for part in PARTS for row in part.ROWS]


HELD = "holds what it is given, which is checked where it is used"
INNER = "a step of the model's own, whose caller has checked its arguments"
EXEMPT = {
    **bad_optim.EXEMPT,
    **bad_prompts.EXEMPT,
    **bad_testing.EXEMPT,
    **dict.fromkeys(("tree.Weights", "tree.Layers", "params.Params", "solvers.config.Sampler"), HELD),
    **dict.fromkeys(
        (f"types.{name}" for name in ("Grid", "Moments", "Solver", "StepInfo", "Text", "VarianceSolver")), HELD
    ),
    "models.transformer.Captions": HELD,
    "models.lora_config.Adapter": HELD,
    **dict.fromkeys((f"train.evaluate.{name}" for name in ("Statistics", "KID", "PrecisionRecall")), HELD),
    **dict.fromkeys(
        (f"train.{name}" for name in ("times.History", "batch.Batch", "state.LossScale", "recipe.Recipe", "job.Job")),
        HELD,
    ),
    **dict.fromkeys(("train.state.TrainState", "train.step.NotFinite"), HELD),
    **dict.fromkeys(("types.SolverState", "types.summary", "tree.check_names"), "for this package's own use"),
    **dict.fromkeys(
        (
            f"models.transformer.{name}"
            for name in ("captions", "conditioned", "embedded", "evaluate", "unpatchify", "watch")
        ),
        INNER,
    ),
    "models.transformer_embeddings.sinusoid": INNER,
    "models.transformer_blocks.Ways": HELD,
    **dict.fromkeys((f"models.transformer_checks.check_{name}" for name in ("conditions", "times", "ways")), INNER),
    **dict.fromkeys(("models.vae_config.check_config", "models.transformer_config.check_config"), INNER),
    **dict.fromkeys(
        ("models.transformer_checks.check_shape_of_times", "models.transformer_checks.check_latents"), INNER
    ),
    **dict.fromkeys(("models.t5.buckets", "models.t5.rows_at_once"), INNER),
}
EXEMPT_ARGUMENTS = {
    "guidance.value.check_scale": ("name", "rows"),  # by whoever writes a check
    "backend.autodiff.grad": ("f",),  # as its docstring says, when the gradient is called
    **dict.fromkeys(("sample.iterate", "sample.sample"), ("key",)),  # which a deterministic solver doesn't use
}


def name_of(function):
    return f"{function.__module__}.{function.__qualname__}".removeprefix("pixart_fn.")


CASES = [
    pytest.param(row, argument, id=f"{name_of(row.function)}-{argument}") for row in ROWS for argument in row.wrong
]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    load = sys.modules["pixart_fn.checkpoint.load"]
    monkeypatch.setattr(load, "open_file", lambda path: pytest.fail(f"{path} is read"))


def complaint(row, argument, value):
    """What is wrong with how a function refuses a value; "" where one sentence does that names the argument."""
    graphs = jit.compilations()
    try:
        (row.call or row.function)(**{**row.right, argument: value})
    except (TypeError, ValueError, OSError) as error:
        sentence = str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return "nothing is raised"
    if jit.compilations() != graphs:
        return f"graphs are compiled before {sentence!r}"
    if "\n" in sentence or not 0 < len(sentence) < 800:
        return f"no one sentence: {sentence!r:.1000}"
    named = any(name in sentence for name in row.said.get(argument, argument).split("|"))
    return "" if named else f"the argument isn't named: {sentence!r}"


@pytest.mark.parametrize(("row", "argument"), CASES)
def test_a_wrong_argument_is_one_sentence(row, argument):
    complaints = {label: complaint(row, argument, value) for label, value in row.wrong[argument].items()}
    assert not {label: each for label, each in complaints.items() if each}


@pytest.mark.parametrize("row", [row for row in ROWS if row.runs], ids=lambda row: name_of(row.function))
def test_the_right_arguments_are_right(row):
    """Or the tests above would be judged by another argument's sentence."""
    (row.call or row.function)(**row.right)


def public(found, home=""):
    """Every function and class that a user finds: in a module those of __all__, or that it and its parts define."""
    if inspect.ismodule(found):
        listed = getattr(found, "__all__", None)
        for name in vars(found) if listed is None else listed:
            inner = getattr(found, name)
            if not name.startswith("_") and not (listed is None and inspect.ismodule(inner)):
                yield from public(inner, found.__name__ if listed is None else "pixart_fn")
    elif (inspect.isfunction(found) or inspect.isclass(found)) and found.__module__.startswith(home):
        yield found  # models.vae holds what models.vae_config defines


def test_every_argument_of_every_public_function_has_a_row():
    tested = {(name_of(row.function), argument) for row in ROWS for argument in {**row.wrong}}
    missing, seen = [], set()
    for function in set(public(px)):
        name = name_of(function)
        seen.add(name)
        for argument in () if name in EXEMPT else inspect.signature(function).parameters:
            if (name, argument) not in tested and argument not in EXEMPT_ARGUMENTS.get(name, ""):
                missing.append(f"{name}({argument})")
    assert not missing and len(seen) > 100
    assert not {*EXEMPT, *EXEMPT_ARGUMENTS} - seen, "of functions that are no more"
