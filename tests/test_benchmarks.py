"""Benchmarks that train the example can still do so, without being timed."""

import equinox as eqx
import jax.random as jr
import pytest
from jax.flatten_util import ravel_pytree

from eqx_slots.models import presets

from .benchmarks.example import example, last_batch
from .benchmarks.training_step import Textbook
from .helpers import assert_close


@pytest.mark.usefixtures("as_users_run")
def test_ready_made_parts_have_the_loss_and_the_gradient_of_ours():
    arguments = example.Arguments(image_size=16, objects=(1, 2), batch_size=2)
    made = eqx.filter_jit(presets.blocks)(**arguments.built_with, key=jr.key(0))
    batch = last_batch(arguments)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def value_and_gradient(model):
        return example.loss(model, batch, jr.key(2))[0]

    (value, ours), (wanted, theirs) = map(value_and_gradient, (made, Textbook(made)))
    assert_close(value, wanted)
    # As one vector, since some of its parts are nothing but rounding.
    parts = (eqx.filter(x.slot_attention, eqx.is_inexact_array) for x in (ours, theirs))
    assert_close(*(ravel_pytree(part)[0] for part in parts))
