"""The public stages say the same things in the same way: one name, one default, one type and one place for each."""

from __future__ import annotations

import inspect
from itertools import combinations, pairwise

import pytest

import pixart_fn as px
from pixart_fn.pipeline import Options

STAGES = {
    stage.__name__: inspect.signature(stage).parameters
    for stage in (
        px.generate,
        px.encode_prompt,
        px.sample_latents,
        px.decode_latents,
        px.encode_image,
        px.text_denoiser,
        px.text_variance_denoiser,
        px.noise,
    )
}
INPUTS = {"decode_latents": "latents"}
"""A stage's input that elsewhere is an option: what is decoded, rather than the noise to start from."""
OPTIONAL = {"encode_image": "key"}
"""An option that elsewhere is an input: without a key the posterior's mean is taken."""
OWN = {
    "generate": {"negative_prompt", "images_per_prompt", "output", "binning"},
    "encode_prompt": {"pad_to"},
    "sample_latents": set(),
    "decode_latents": {"latents", "size"},
    "encode_image": {"pictures", "key"},
    "text_denoiser": set(),
    "text_variance_denoiser": set(),
    "noise": {"n"},
}
"""What only one stage has; all else is shared."""


def shared(stage: str) -> dict[str, inspect.Parameter]:
    """The parameters that mean what the same name means in the other stages."""
    apart = {INPUTS.get(stage), OPTIONAL.get(stage)}
    return {name: parameter for name, parameter in STAGES[stage].items() if name not in apart}


@pytest.mark.parametrize(("one", "other"), [*combinations(STAGES, 2)])
def test_what_two_stages_share_is_said_once(one, other):
    first, second = shared(one), shared(other)
    common = [name for name in first if name in second]
    assert common[0] == "params"
    assert common == [name for name in second if name in first], f"{one} and {other} have another order"
    for name in common:
        assert first[name].annotation == second[name].annotation, name
        assert first[name].default == second[name].default, name


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_only_what_is_shared_and_what_is_listed_as_its_own(stage):
    others = {name for other in STAGES if other != stage for name in shared(other)}
    own = {name for name in STAGES[stage] if name not in others or name in (INPUTS.get(stage), OPTIONAL.get(stage))}
    assert own == OWN[stage]
    assert not [p for p in STAGES[stage].values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def test_guidance_is_one_argument():
    for stage, parameters in STAGES.items():
        fields = {*inspect.signature(px.Guidance).parameters}
        assert not fields & {*parameters}, stage
    assert [stage for stage, parameters in STAGES.items() if "guidance" in parameters] == [
        "generate", "sample_latents", "text_denoiser", "text_variance_denoiser",
    ]  # fmt: skip


def test_both_denoisers_of_text_take_the_same():
    assert STAGES["text_denoiser"] == STAGES["text_variance_denoiser"]


def test_the_options_that_a_type_checker_sees_are_those_of_generate():
    """`Options` is for the overloads: the arguments by name that don't change what comes back."""
    by_name = {name: p for name, p in STAGES["generate"].items() if p.kind is p.KEYWORD_ONLY}
    expected = {name: p.annotation for name, p in by_name.items() if name not in ("output", "images_per_prompt")}
    written = {name: annotation.__forward_arg__ for name, annotation in Options.__annotations__.items()}
    assert list(written.items()) == list(expected.items())


def test_one_order_holds_all_of_them():
    """No circle among the orders: there is one list of which every stage's arguments are a part."""
    after: dict[str, set[str]] = {}
    for stage in STAGES:
        for name, following in pairwise(shared(stage)):
            after.setdefault(name, set()).add(following)
    seen: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in seen:
            for following in sorted(after.get(name, ())):
                visit(following, (*path, name))
            seen.append(name)

    visit("params", ())
    assert {*seen} == {name for stage in STAGES for name in shared(stage)}
