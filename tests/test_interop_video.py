"""All of SAVi-S, from the names and shapes of its parameters and back."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots import interop
from eqx_slots.models import BoxHints, presets, SlotVideo, Standardization
from eqx_slots.nn import SlotPredictor, WeightedMean

from . import reference_savi as reference
from .helpers import as_float64, assert_close, built, float64, normal, run


def test_agrees_with_the_original():
    params = reference.parameters()
    video = np.asarray(normal(1, 2, reference.SIDE, reference.SIDE, 3), np.float64)
    boxes = np.abs(np.asarray(normal(2, 2, 4), np.float64))
    want = reference.model(params, video, boxes)
    model = interop.savi_video(params)
    with float64():
        video = jnp.asarray(np.moveaxis(video, -1, 1))
        made = run(as_float64(model), video, hints=jnp.asarray(boxes))
    flow, masks, slots, predicted = want
    assert_close(made.images, np.moveaxis(flow, -1, 1), jnp.float64)
    assert_close(made.masks, masks, jnp.float64)
    assert_close(made.slots, slots, jnp.float64)
    assert_close(made.predicted, predicted, jnp.float64)


def test_there_and_back_and_nested():
    params, nested = reference.parameters(), {}
    for name, value in params.items():
        *above, last = name.split("/")
        inner = nested
        for part in above:
            inner = inner.setdefault(part, {})
        inner[last] = value
    model = interop.savi_video(nested)
    assert eqx.tree_equal(model, interop.savi_video(params))
    again = interop.to_savi_video(model)
    assert list(again) == sorted(params)
    for name, value in again.items():
        np.testing.assert_allclose(value, params[name], atol=1e-6, err_msg=name)


def test_the_preset_has_the_names_and_shapes_of_the_original():
    made = built(presets.savi_small)
    params = interop.to_savi_video(made)
    assert len(params) == len(reference.parameters())
    assert set(params) == set(reference.parameters())
    assert sum(x.size for x in params.values()) == 895_268
    for name, shape in {
        "CoordinateEncoderStateInit_0/MLP_0/dense_mlp_0/kernel": (4, 256),
        "FrameEncoder_0/CNN_0/conv_0/kernel": (5, 5, 3, 32),
        "FrameEncoder_0/PositionEmbedding_0/pos_embedding": (1, 64, 64, 2),
        "SlotAttention_0/general_dense_k_0/kernel": (32, 1, 128),
        "SpatialBroadcastDecoder_0/CNN_0/conv_0/kernel": (5, 5, 128, 64),
        "SpatialBroadcastDecoder_0/PositionEmbedding_0/pos_embedding": (1, 8, 8, 2),
        "TransformerBlock_0/MultiHeadDotProductAttention_0/out/kernel": (4, 32, 128),
    }.items():
        assert params[name].shape == shape
    same = interop.savi_video(params)
    for one, other in zip(
        *(jax.tree.leaves(eqx.filter(m, eqx.is_array)) for m in (same, made))
    ):
        np.testing.assert_array_equal(one, other)


def test_centres_are_hints_of_two():
    name = "CoordinateEncoderStateInit_0/MLP_0/dense_mlp_0/kernel"
    params = reference.parameters()
    params[name] = params[name][:2]
    assert interop.savi_video(params).slot_start.size == 2


PLACES = "FrameEncoder_0/PositionEmbedding_0/pos_embedding"
COARSE = "SpatialBroadcastDecoder_0/PositionEmbedding_0/pos_embedding"
KERNEL = "TransformerBlock_0/MLP_0/dense_mlp_0/kernel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({PLACES: reference.grid(16) + 0.01}, f"`{PLACES}` is no grid of `y` and `x`"),
        ({PLACES: reference.grid(16)[..., ::-1]}, f"`{PLACES}` is no grid"),
        (
            {PLACES: reference.grid(24)},
            r"\(24, 24\) places, and the decoder's",
        ),
        ({COARSE: None}, f"`{COARSE}` is missing, expected shape"),
        ({COARSE: np.zeros((2, 2, 2))}, f"`{COARSE}` is misshapen"),
        ({KERNEL: None}, f"`{KERNEL}` is missing"),
        ({KERNEL: np.full((8, 10), np.nan)}, f"`{KERNEL}` is not finite"),
        ({"Other_0/kernel": np.zeros(3)}, "`Other_0/kernel` is unknown"),
    ],
)
def test_other_parameters_are_refused(change, message):
    params = reference.parameters() | change
    params = {name: value for name, value in params.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        interop.savi_video(params)


def replaced(where, value):
    model = eqx.filter_eval_shape(presets.savi_small, key=jr.key(0))
    return eqx.tree_at(where, model, value, is_leaf=lambda x: x is None)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (lambda m: m.slot_start, None, "`slot_start` is None"),
        (
            lambda m: m.predictor,
            built(partial(SlotPredictor, 128, norm_first=True)),
            "`predictor.norm_first` is True",
        ),
        (
            lambda m: m.corrector.reduction,
            WeightedMean(),
            "`corrector.reduction.eps_in` is 'weights'",
        ),
        (
            lambda m: m.standardization,
            Standardization(jnp.zeros(3), jnp.ones(())),
            "`standardization` is Standardization",
        ),
        (
            lambda m: m.slot_start,
            built(partial(BoxHints, 128, use_background=False)),
            "`slot_start.use_background` is False",
        ),
    ],
)
def test_other_models_are_refused(where, value, message):
    with pytest.raises(ValueError, match=message):
        interop.to_savi_video(replaced(where, value))


@pytest.mark.usefixtures("as_users_run")
def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="`model` is 3, and would have to be"):
        interop.to_savi_video(3)
    with pytest.raises(ValueError, match="dict from names to arrays, got int"):
        interop.savi_video(3)
    blocks = eqx.filter_eval_shape(presets.blocks, key=jr.key(0))
    predictor, hints = built(partial(SlotPredictor, 64)), built(partial(BoxHints, 64))
    parts = (blocks.encoder, blocks.slot_attention, predictor, blocks.decoder)
    model = SlotVideo(*parts, hints)
    with pytest.raises(ValueError, match=r"`decoder.convs` is 2 layers.*5 layers"):
        interop.to_savi_video(model)
