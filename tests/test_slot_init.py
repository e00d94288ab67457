"""Where slots and weights begin."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.nn import (
    GaussianSlots,
    GivenSlots,
    LearnedGaussianSlots,
    LearnedSlots,
    paper_weights,
    SlotAttention,
)

from .helpers import assert_close, built, check_fields, normal, num_parameters, run
from .test_slot_attention import make


def official(**options):
    """With the weights that the layer itself draws."""
    return SlotAttention(11, 7, num_slots=3, **options, key=jr.key(0))


def test_gaussian_slots_have_their_mean_and_scale():
    wide = GaussianSlots(64, key=jr.key(0))
    for leaf in (wide.mean, wide.log_scale):
        largest = float(jnp.max(jnp.abs(leaf)))
        assert 0.9 * (6 / 65) ** 0.5 < largest <= (6 / 65) ** 0.5
    init = GaussianSlots(5, key=jr.key(0))
    drawn = np.asarray(init(40_000, key=jr.key(1)))
    np.testing.assert_allclose(drawn.mean(0), init.mean, atol=0.05)
    np.testing.assert_allclose(drawn.std(0), jnp.exp(init.log_scale), rtol=0.02)


def test_learned_slots_are_given_in_order_without_a_key():
    init = LearnedSlots(5, 7, key=jr.key(0))
    np.testing.assert_array_equal(init(5), init.slots)
    np.testing.assert_array_equal(init(3), init.slots[:3])
    many = LearnedSlots(100, 100, key=jr.key(0)).slots
    assert abs(float(jnp.std(many)) - 1) < 0.03
    layer = make(num_slots=5, slot_init=init)
    assert run(layer, normal(0, 17, 11), num_slots=2).slots.shape == (2, 7)


def test_the_first_slots_do_not_depend_on_how_many_are_drawn():
    key = jr.key(1)
    for init in (
        GaussianSlots(5, key=jr.key(0)),
        LearnedGaussianSlots(7, 5, key=jr.key(0)),
    ):
        np.testing.assert_array_equal(init(7, key=key)[:3], init(3, key=key))


def test_learned_gaussian_slots_have_each_their_mean_and_scale():
    init = LearnedGaussianSlots(3, 5, scale=0.2, key=jr.key(0))
    assert_close(jnp.exp(init.log_scale), np.full((3, 5), 0.2))
    assert (
        abs(float(jnp.std(LearnedGaussianSlots(99, 99, key=jr.key(0)).mean)) - 1) < 0.03
    )
    init = eqx.tree_at(lambda m: m.log_scale, init, normal(2, 3, 5))
    drawn = jax.vmap(lambda key: init(2, key=key))(jr.split(jr.key(1), 40_000))
    drawn, scale = np.asarray(drawn), np.exp(init.log_scale[:2])
    assert np.max(np.abs(drawn.mean(0) - init.mean[:2]) / scale) < 0.03
    np.testing.assert_allclose(drawn.std(0), scale, rtol=0.02)
    layer = make(slot_init=built(lambda key: LearnedGaussianSlots(3, 7, key=key)))
    noisy, quiet = (
        run(layer, normal(0, 17, 11), key=jr.key(0)),
        run(layer, normal(0, 17, 11), slots=layer.slot_init.mean),
    )
    assert not np.allclose(noisy.slots, quiet.slots)


def test_the_number_of_slots_belongs_to_an_initialiser_that_fixes_it():
    layer = make(num_slots=None, slot_init=LearnedSlots(5, 7, key=jr.key(0)))
    assert layer.num_slots == 5
    assert run(layer, normal(0, 17, 11)).slots.shape == (5, 7)


def test_given_slots_are_taken_as_they_are():
    assert make(num_slots=None, slot_init=GivenSlots()).num_slots is None
    layer = eqx.tree_at(lambda m: m.slot_init, make(), GivenSlots())
    inputs, slots = normal(0, 17, 11), normal(1, 5, 7)
    assert_close(
        run(layer, inputs, slots=slots).slots, run(make(), inputs, slots=slots).slots
    )


def test_an_initialiser_of_ones_own():
    class Ramp(eqx.Module):
        height: jax.Array

        def __call__(self, num_slots, *, key=None):
            return jnp.linspace(0, 1, num_slots)[:, None] * self.height[None, :]

    layer = eqx.tree_at(lambda m: m.slot_init, make(), Ramp(jnp.arange(1.0, 8.0)))
    inputs, slots = (
        normal(0, 17, 11),
        jnp.outer(jnp.arange(3.0) / 2, jnp.arange(1.0, 8)),
    )
    assert_close(run(layer, inputs).slots, run(make(), inputs, slots=slots).slots)


def test_paper_weights():
    layer = official()
    for proj in (layer.query_proj, layer.key_proj, layer.value_proj):
        assert proj.bias is None
        limit = (6 / sum(proj.weight.shape)) ** 0.5
        assert 0.8 * limit < float(jnp.max(jnp.abs(proj.weight))) <= limit
    cell = layer.cell
    assert_close(np.einsum("gi,gj->ij", cell.weight_hh, cell.weight_hh), np.eye(7))
    limit = (6 / sum(cell.weight_ih.shape)) ** 0.5
    assert 0.8 * limit < float(jnp.max(jnp.abs(cell.weight_ih))) <= limit
    for bias in (cell.bias, cell.bias_n, *(x.bias for x in layer.mlp.layers)):
        np.testing.assert_array_equal(bias, np.zeros(bias.shape))
    norms = (layer.norm_inputs, layer.norm_slots, layer.norm_mlp)
    assert [norm.eps for norm in norms] == [1e-3] * 3
    assert bool(jnp.any(official(weight_init="equinox").cell.bias != 0))


def test_paper_weights_reach_every_layer_of_equinox():
    layers = (
        eqx.nn.Linear(7, 11, key=jr.key(0)),
        eqx.nn.Conv2d(7, 11, 3, key=jr.key(1)),
        eqx.nn.ConvTranspose2d(7, 11, 3, key=jr.key(2)),
        eqx.nn.LayerNorm(7),
    )
    drawn = paper_weights(layers, key=jr.key(3))
    for layer, new in zip(layers[:3], drawn):
        np.testing.assert_array_equal(new.bias, np.zeros(new.bias.shape))
        assert not np.allclose(layer.weight, new.weight)
        taps = layer.weight[0, 0].size
        limit = (6 / (18 * taps)) ** 0.5
        assert 0.8 * limit < float(jnp.max(jnp.abs(new.weight))) <= limit
    assert eqx.tree_equal(drawn[3], layers[3])


@pytest.mark.usefixtures("as_users_run")
def test_paper_weights_with_the_defaults_of_flax():
    linear, conv, cell = paper_weights(
        (
            eqx.nn.Linear(200, 300, key=jr.key(0)),
            eqx.nn.Conv2d(30, 50, 3, key=jr.key(1)),
            eqx.nn.GRUCell(80, 40, key=jr.key(2)),
        ),
        defaults="flax",
        key=jr.key(3),
    )
    for weight, fan_in in (
        (linear.weight, 200),
        (conv.weight, 270),
        (cell.weight_ih, 80),
    ):
        deviation = float(jnp.std(weight)) * fan_in**0.5
        assert abs(deviation - 1) < 0.03
    np.testing.assert_array_equal(linear.bias, 0)
    assert_close(np.einsum("gi,gj->ij", cell.weight_hh, cell.weight_hh), np.eye(40))
    with pytest.raises(ValueError, match='"keras" or "flax", got \'torch\''):
        paper_weights(linear, defaults="torch", key=jr.key(0))


def test_defaults_are_those_of_the_paper():
    layer = built(partial(SlotAttention, 11, 7, num_slots=3))
    assert (layer.num_iters, layer.grad_iters, layer.scale) == (3, None, None)
    assert layer.reduction.eps == 1e-8
    assert layer.competition.temperature == 1
    assert layer.mlp.width_size == 128
    assert isinstance(layer.slot_init, GaussianSlots)


def test_number_of_parameters_of_the_official_layer():
    layer = built(partial(SlotAttention, 64, 64, num_slots=7))
    assert num_parameters(layer) == 54_208


def test_fields_hold_what_they_say():
    for module in (
        GaussianSlots(5, key=jr.key(0)),
        LearnedSlots(3, 5, key=jr.key(0)),
        LearnedGaussianSlots(3, 5, key=jr.key(0)),
    ):
        check_fields(module)
