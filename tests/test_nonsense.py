"""What a hostile user tried: nonsense that was accepted without a word, or ended in another library's message."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny
from helpers.drawing import KEY, draw

import pixart_fn as px
from pixart_fn import guidance, t5, transformer, tree, vae
from pixart_fn.checkpoint.text import save_text

import mindspore as ms  # isort: skip - after pixart_fn, which silences it

NOISE = px.schedule.from_betas(px.schedule.linear())
GRID = px.schedule.grid(NOISE, [900, 500])
NAN = np.float32(np.nan)


@pytest.fixture(scope="module")
def params():
    return tiny.params()


def spoiled(params, model, name, value=NAN):
    def spoil(path, leaf):
        return ms.Tensor(np.full(leaf.shape, value, np.float32)) if path == name else leaf

    return params.replace(**{model: tree.map_with_path(spoil, getattr(params, model))})


# --- NaN that something makes a number of ----------------------------------------------------------------------------

CLIPPING = {
    "DDPM": {"_class_name": "DDPMScheduler", "clip_sample": True},
    "LCM": {"_class_name": "LCMScheduler", "clip_sample": True},
    "threshold": {"_class_name": "DPMSolverMultistepScheduler", "thresholding": True, "sample_max_value": 2.0},
}


@pytest.mark.parametrize("name", CLIPPING)
def test_clipping_doesnt_hide_what_isnt_finite(params, name):
    broken = spoiled(params, "transformer", "proj_out.bias")
    config = type(params.config)(
        **{**vars(params.config), "scheduler": {**CLIPPING[name], "prediction_type": "sample"}}
    )
    with pytest.raises(ValueError, match=r"step 1 of 2 \(t = \d+\) of sample_latents must be finite"):
        draw(broken.replace(config=config), steps=2)


@pytest.mark.parametrize("wrap", [guidance.clip, lambda d: guidance.threshold(d, 0.9, 2.0)], ids=["clip", "threshold"])
def test_nan_stays_nan_in_tensors_as_in_arrays(wrap):
    x = np.float32([[[[NAN, 5.0, -5.0]]]])
    tensor = wrap(lambda x, t: x)(ms.Tensor(x), 5.0).asnumpy()
    assert np.isnan(tensor[0, 0, 0, 0]) and (wrap is not guidance.clip or tensor[0, 0, 0, 1:].tolist() == [1, -1])


def test_the_adaptive_solver_ends_where_the_model_says_nan(params):
    with pytest.raises(ValueError, match="dpm_adaptive can't go on at t = 900: the error is nan"):
        px.sample(KEY, lambda x, t: x * np.nan, "dpm_adaptive", GRID, np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"can't go on at t = .* or rtol and atol are too small"):
        px.sample(KEY, lambda x, t: np.tanh(x), px.solvers.dpm_adaptive(rtol=0, atol=1e-300), GRID, np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"step 1 of 3 .* must be finite"):
        draw(spoiled(params, "transformer", "proj_out.bias"), solver="dpm_adaptive")


def test_a_log_variance_that_isnt_finite_is_no_latent(params):
    picture = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="the latents of encode_image must be finite"):
        px.encode_image(spoiled(params, "vae", "quant_conv.bias"), picture, key=KEY)


def test_nan_latents_stay_nan_where_nothing_is_checked(params):
    z = np.full((1, 4, 8, 8), NAN)
    assert np.isnan(px.decode_latents(params, z, check=False).asnumpy()).all()


# --- training --------------------------------------------------------------------------------------------------------


def leaf(*numbers):
    return ms.Tensor(np.float32(numbers))


# --- grids, denoisers, trees -----------------------------------------------------------------------------------------

GRIDS = {
    "one node": px.Grid(GRID.t[:1], GRID.alpha[:1], GRID.sigma[:1]),
    "words": GRID._replace(t=np.array(["a", "b", "c"])),
    "alpha": GRID._replace(alpha=np.array([3.0, 2.0, 1.0])),
    "NaN": GRID._replace(alpha=np.array([0.1, np.nan, 1.0])),
    "shuffled": px.Grid(GRID.t[[1, 0, 2]], GRID.alpha[[1, 0, 2]], GRID.sigma[[1, 0, 2]]),
}


@pytest.mark.parametrize("case", GRIDS)
def test_a_grid_by_hand_is_checked(case):
    with pytest.raises(ValueError, match=r"a grid must have two nodes|the nodes of a grid must"):
        px.sample(KEY, lambda x, t: x, "ddim", GRIDS[case], np.ones((1, 2)))


def test_a_grid_of_another_schedule_is_refused(params):
    other = px.schedule.from_betas(px.schedule.scaled_linear())
    with pytest.raises(ValueError, match="grid has another schedule than the model's"):
        draw(params, steps=None, grid=px.schedule.grid(other, [900, 500]))


@pytest.mark.parametrize(
    "said", [lambda x, t: x[:, :1], lambda x, t: x[:1], lambda x, t: None, lambda x, t: ms.Tensor(x)]
)
def test_a_denoiser_must_give_what_x_is(said):
    with pytest.raises((TypeError, ValueError), match="denoise must give"):
        px.sample(KEY, said, "ddim", GRID, np.ones((2, 3, 4, 4), np.float32))


def test_a_step_is_gone_on_from_by_its_state():
    info = next(px.iterate(KEY, lambda x, t: 0.5 * x, "ddim", GRID, np.ones((1, 2))))
    with pytest.raises(TypeError, match=r"x is a StepInfo; go on from its state"):
        px.iterate(KEY, lambda x, t: 0.5 * x, "ddim", GRID, info, start=1)


def test_nest_leaves_its_leaves_alone():
    inner = tree.nest({"b": 1})
    with pytest.raises(ValueError, match="begins with the name of a leaf"):
        tree.nest({"a": inner, "a.c": 2})
    assert inner == {"b": 1}
    with pytest.raises(ValueError, match="must be different names"):
        tree.paths({"": {"a": 1}, "a": 2})


# --- params ----------------------------------------------------------------------------------------------------------


def test_a_variance_that_no_model_learned_is_refused(params):
    plain = tiny.transformer.Config(**{**vars(tiny.TRANSFORMER), "out_channels": 4})
    with pytest.raises(ValueError, match=r"ddpm\('learned_range'\) reads a learned variance, which this model doesn't"):
        draw(tiny.params(plain), solver=px.solvers.ddpm("learned_range"))


def test_params_whose_parts_dont_fit_are_named(params):
    blocks = params.transformer["transformer_blocks"]
    changes = {
        "transformer": (
            {**params.transformer, "transformer_blocks": blocks[:1]},
            "params.transformer doesn't hold the",
        ),
        "vae": (params.transformer, "params.vae doesn't hold the tensors of its configuration"),
    }
    for name, (weights, sentence) in changes.items():
        with pytest.raises(ValueError, match=sentence):
            draw(params.replace(**{name: weights}))
    with pytest.raises(ValueError, match=r"params.transformer is None"):
        draw(params.replace(transformer=None))
    arrays = tree.map(lambda leaf: leaf.asnumpy(), params.transformer)
    with pytest.raises(
        TypeError, match=r"params.transformer must hold Tensors, got an ndarray at pos_embed.proj.weight"
    ):
        draw(params.replace(transformer=arrays))


@pytest.mark.parametrize("model", ["text_encoder", "transformer", "vae"])
def test_weights_of_several_types_are_named(params, model, eagerly):
    weights = getattr(params, model)
    names = [name for name, leaf in tree.items(weights) if leaf.ndim > 1]

    def cast(of, dtype):
        leaves = [leaf.astype(dtype) if name in of else leaf for name, leaf in tree.items(weights)]
        return params.replace(**{model: tree.unflatten(weights, leaves)})

    one = names[-1:]
    for dtype, sentence in {
        ms.float16: f"params.{model} must hold Tensors of one type, got float32 and float16 at {one[0]}; px.tree.map",
        ms.int32: f"params.{model} must hold floating-point Tensors, got int32 at {one[0]}; px.tree.map",
    }.items():
        with pytest.raises(TypeError, match=sentence):
            draw(cast(one, dtype))
    every = [name for name, _ in tree.items(weights)]
    with pytest.raises(TypeError, match=f"params.{model} holds bfloat16, of which MindSpore has no products on a CPU"):
        draw(cast(every, ms.bfloat16))
    wide = [name for name in every if model != "text_encoder" or not name.endswith(t5.WIDE)]
    assert draw(cast(wide, ms.float16)).size == (16, 16)


# --- arrays and switches ---------------------------------------------------------------------------------------------


def test_the_order_of_bytes_says_nothing(params):
    z = px.noise(params, KEY).asnumpy()
    assert np.array_equal(px.decode_latents(params, z.astype(">f4")), px.decode_latents(params, z))
    swapped = draw(params, latents=z.astype(">f4"), output="latents")
    assert np.array_equal(swapped, draw(params, latents=z, output="latents"))


NONSENSE = {
    "clean": ({"clean": "false"}, "clean must be True or False, got 'false'"),
    "check": ({"check": "no"}, "check must be True or False, got 'no'"),
    "a set": ({"prompt": {"a", "b"}}, "prompt must be a string or a list of at least one string"),
    "a dict": ({"prompt": {"a": 1}}, "prompt must be a string or a list of at least one string"),
    "scales": ({"guidance": [[1, 2], [3]]}, "the scale of guidance must be a number, or a list"),
    "words": ({"guidance": ["a"]}, "the scale of guidance must be a number, or a list"),
    "flags": ({"guidance": np.array([True])}, "the scale of guidance must be a number, or a list"),
    "a function": (
        {"guidance": lambda t: "4.5"},
        r"the scale of guidance at t = 999 must be a number, .*, got '4.5'",
    ),
    "of two": (
        {"guidance": px.Guidance(pag_scale=lambda t: [1.0, 2.0])},
        r"pag_scale at t = 999 must be a number or one for each picture \(1\)",
    ),
    "a dict as guidance": ({"guidance": {"scale": 3}}, "the scale of guidance must be a number, .*, got a dict"),
    "rescale": ({"guidance_rescale": 0.5}, r"guidance_rescale=0.5 is now guidance=px.Guidance\(rescale=0.5\)"),
    "embeddings": ({"prompt_embeds": 0}, r"px.sample_latents\(params, text, key\) takes a Text"),
    "a solver": ({"solver": "HEUN"}, "the nearest is 'heun'"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_one_sentence(params, case):
    options, sentence = NONSENSE[case]
    with pytest.raises((TypeError, ValueError), match=sentence) as raised:
        draw(params, **options)
    assert "\n" not in str(raised.value)


NOT_SCHEDULES = {
    "grid": lambda s: px.schedule.grid(s, [500]),
    "timesteps": lambda s: px.schedule.timesteps(s, 5),
    "karras": lambda s: px.schedule.karras(s, 5),
    "beta": lambda s: px.schedule.beta(s, 5),
    "zero_terminal_snr": lambda s: px.schedule.zero_terminal_snr(s),
}


@pytest.mark.parametrize("name", NOT_SCHEDULES)
@pytest.mark.parametrize(
    "given", [None, {}, (NOISE, None, None), px.schedule.linear()], ids=["None", "a dict", "a triple", "betas"]
)
def test_what_is_no_schedule_is_one_sentence(name, given):
    with pytest.raises(TypeError, match=r"schedule must be a Schedule, as schedule.from_betas makes, got"):
        NOT_SCHEDULES[name](given)


@pytest.mark.parametrize(
    "change", [{"norm_num_groups": 0}, {"block_out_channels": []}, {"scaling_factor": 0.0}], ids=str
)
def test_a_vae_that_cant_be_is_refused(change):
    with pytest.raises(ValueError, match=r"vae config: "):
        vae.read_config({"_class_name": "AutoencoderKL", **change})


EMPTY = np.zeros((0, 16, 16, 3), np.float32)
CALLS = {
    "size": lambda p, z: px.decode_latents(p, z, size=16),
    "three sizes": lambda p, z: px.decode_latents(p, z, size=(16, 16, 3)),
    "no picture": lambda p, z: px.encode_image(p, EMPTY),
    "no row": lambda p, z: vae.encode(p.vae, p.config.vae, EMPTY.transpose(0, 3, 1, 2)),
    "no text": lambda p, z: px.sample_latents(p, px.Text(np.zeros((0, 4, 32), np.float32), np.zeros((0, 4))), KEY),
    "a schedule": lambda p, z: px.text_denoiser(p, px.encode_prompt(p, "a"), schedule="linear"),
    "bools as ids": lambda p, z: t5.encode(
        p.text_encoder, p.config.text_encoder, np.ones((1, 4), bool), np.ones((1, 4))
    ),
    "a soft mask": lambda p, z: t5.encode(
        p.text_encoder, p.config.text_encoder, np.ones((1, 4), int), np.full((1, 4), 0.5)
    ),
    "no token": lambda p, z: transformer.apply(
        p.transformer, p.config.transformer, z, np.float32([5]), np.zeros((1, 4, 32), np.float32), np.zeros((1, 4))
    ),
    "no mask": lambda p, z: transformer.apply(
        p.transformer, p.config.transformer, z, np.float32([5]), np.zeros((1, 4, 32), np.float32), None
    ),
    "a text to save": lambda p, z: save_text(px.Text(np.zeros((1, 4, 32)), np.full((1, 4), 0.5)), "t.safetensors"),
    "no leaf": lambda p, z: px.value_and_grad(lambda t: z.sum())({}),
    "aux": lambda p, z: px.value_and_grad(lambda t: z.sum(), {"a": z}),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_means_nothing_is_one_sentence(params, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=r"must|needs") as raised:
        CALLS[case](params, px.noise(params, KEY))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_ids_of_any_whole_numbers_are_read(params, dtype):
    ids, mask = np.array([[5, 7, 1, 0]]), np.array([[1, 1, 1, 0]])
    encoder, config = params.text_encoder, params.config.text_encoder
    expected = t5.encode(encoder, config, ids.astype(np.int32), mask)
    assert np.array_equal(t5.encode(encoder, config, ids.astype(dtype), mask), expected)
