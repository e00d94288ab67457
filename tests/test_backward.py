"""The backward pass that is written out, against JAX's own through the same rounds."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from jax.test_util import check_grads

from eqx_slots.nn import (
    _inputs,
    GumbelSoftmax,
    Sinkhorn,
    Softmax,
    WeightedMean,
    WeightedSum,
)

from .helpers import as_float64, assert_close, float64, largest_error, normal, seeds
from .test_inputs import projected
from .test_slot_attention import make


def by_autodiff(layer):
    """The same layer with `use_custom_vjp` off."""
    fields = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
    other = object.__new__(type(layer))
    for name, value in (fields | {"use_custom_vjp": False}).items():
        object.__setattr__(other, name, value)
    return other


def close(got, want, limit):
    """Each leaf up to rounding, the gradients' as parts of the largest of them."""
    got, want = (list(map(np.asarray, jax.tree.leaves(x))) for x in (got, want))
    largest = max(np.max(np.abs(leaf)) for leaf in want)
    assert largest > 0
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=limit * largest)


def weighted(state):
    """One number that every entry of slots and attention counts in, each otherwise."""
    total = jnp.zeros((), state.slots.dtype)
    for x in state:
        weights = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
        total += jnp.sum(x * weights) + jnp.sum(x**3)
    return total


@eqx.filter_jit
def gradients(layer, inputs, slots, call=lambda layer, *args, **kw: layer(*args, **kw)):
    def total(arguments):
        layer, inputs, slots = arguments
        return weighted(call(layer, inputs, slots=slots, key=jr.key(0)))

    return eqx.filter_grad(total)((layer, inputs, slots))


OPTIONS = {
    "all rounds in one product": {"num_slots": 2, "num_iters": 2},
    "added up": {"num_slots": 3, "num_iters": 3},
    "heads, added up": {"num_heads": 2, "qkv_size": 6, "num_slots": 3},
    "one round": {"num_iters": 1},
    "biases": {"use_qkv_bias": True},
    "heads": {
        "num_heads": 2,
        "qkv_size": 6,
        "use_qkv_bias": True,
        "num_slots": 2,
        "num_iters": 2,
    },
    "joint heads": {
        "num_heads": 2,
        "qkv_size": 6,
        "num_slots": 1,
        "competition": Softmax(temperature=0.5, over_heads=True),
    },
    "no mlp": {"mlp_size": None, "use_output_proj": True},
    "sum": {"reduction": WeightedSum(), "use_qkv_bias": True},
    "epsilon": {"reduction": WeightedMean(1.0), "use_qkv_bias": True},
    "learned temperature": {"competition": Softmax(jnp.asarray(1.5))},
    "gumbel": {"competition": GumbelSoftmax()},
    "sinkhorn": {"competition": Sinkhorn(3, 0.7, jnp.asarray([1.0, 2.0, 0.5]))},
    "the last two": {"num_iters": 3, "grad_iters": 2},
    "the last two, cut": {"grad_iters": 2, "straight_through": False},
}


def problem(num_inputs=17, **options):
    """A layer with these options, inputs and slots, all in float64."""
    layer = as_float64(make(seed=1, **options))
    inputs = normal(2, num_inputs, 11, dtype=jnp.float64)
    return layer, inputs, normal(3, layer.num_slots, 7, dtype=jnp.float64)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_are_those_of_autodiff(name):
    with float64():
        layer, inputs, slots = problem(**OPTIONS[name])
        want = gradients(by_autodiff(layer), inputs, slots)
        for ours in (layer, projected(layer)):  # in both orders
            close(gradients(ours, inputs, slots), want, 1e-12)


@pytest.mark.parametrize("name", ["added up", "heads, added up"])
def test_gradients_are_added_up_in_blocks_of_inputs(name, monkeypatch):
    # 18 inputs are three runs of each block.
    for constant, value in {"BLOCKS": 2, "DEVICES": 1, "RUN": 3}.items():
        monkeypatch.setattr(_inputs, constant, value)
    with float64():
        layer, inputs, slots = problem(18, **OPTIONS[name])
        want = gradients(by_autodiff(layer), inputs, slots)
        for ours in (layer, projected(layer)):
            close(gradients(ours, inputs, slots), want, 1e-12)
            two = jnp.stack([inputs, -inputs])
            in_batch = jax.vmap(lambda x, ours=ours: gradients(ours, x, slots)[1])(two)
            close(in_batch[0], want[1], 1e-12)


@pytest.mark.parametrize("name", ["biases", "heads", "sum", "sinkhorn"])
def test_gradients_with_masks(name):
    with float64():
        layer, inputs, slots = problem(**OPTIONS[name])
        inputs, num_slots = inputs.at[0].set(jnp.nan), layer.num_slots
        input_mask = jnp.arange(17) % 3 > 0
        slot_mask = jnp.arange(num_slots) < max(num_slots - 1, 1)
        call = lambda layer, *args, **kw: layer(
            *args, **kw, input_mask=input_mask, slot_mask=slot_mask
        )
        got = gradients(layer, inputs, slots, call)
        close(got, gradients(by_autodiff(layer), inputs, slots, call), 1e-12)
    assert not np.any(np.asarray(got[1])[~np.asarray(input_mask)])


@pytest.mark.parametrize("grad_iters", [None, 1, 2])
def test_gradients_of_every_round_and_of_what_has_settled(grad_iters):
    calls = (
        lambda layer, *args, **kw: layer.rounds(*args, **kw),
        lambda layer, *args, **kw: (
            layer.converge(*args, **kw, tol=0.0, max_iters=4).state
        ),
    )
    with float64():
        layer, inputs, slots = problem(grad_iters=grad_iters)
        for call in calls:
            got = gradients(layer, inputs, slots, call)
            close(got, gradients(by_autodiff(layer), inputs, slots, call), 1e-12)


@pytest.mark.parametrize("which", [0, 1])
def test_a_loss_on_one_result_alone(which):
    with float64():
        layer, inputs, slots = problem()

        @eqx.filter_jit
        @eqx.filter_grad
        def gradient(arguments, method):
            layer, inputs, slots = arguments
            return jnp.sum(getattr(layer, method)(inputs, slots=slots)[which] ** 3)

        for method in ("__call__", "rounds"):
            got = gradient((layer, inputs, slots), method)
            want = gradient((by_autodiff(layer), inputs, slots), method)
            close(got, want, 1e-12)


@settings(max_examples=5)
@given(seed=seeds)
def test_gradients_in_float32(seed):
    # Fresh numbers, not a trained layer's: what the fast path rounds, autodiff does.
    layer = make(seed, scale=0.2)
    inputs, slots = normal(seed, 33, 11), normal(seed + 1, 3, 7)
    got = gradients(layer, inputs, slots)
    with float64():
        wide = as_float64((by_autodiff(projected(layer)), inputs, slots))
        want = gradients(*wide)
    close(got, want, 1e-5)


def test_inputs_far_from_zero_lose_no_more_than_they_must():
    # The mean is taken off the rows, not off the inputs: the rounding is of one size.
    layer, slots = make(1, scale=0.2), normal(3, 3, 7)
    inputs = normal(2, 33, 11) + 100
    with float64():
        wide = as_float64((projected(layer), inputs, slots))
        want = gradients(*wide)
    error = [
        max(
            largest_error(a, b)
            for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(want))
            if np.max(np.abs(b)) > 1e-6  # the bias of `norm_slots` gets none
        )
        for made in (
            gradients(layer, inputs, slots),
            gradients(by_autodiff(projected(layer)), inputs, slots),
        )
    ]
    assert error[0] < 5 * error[1]


def small(**options):
    layer, inputs, slots = problem(5, mlp_size=3, **options)
    # ReLU has no second derivative at its corner; tanh has one everywhere.
    layer = eqx.tree_at(lambda m: m.mlp.activation, layer, jnp.tanh)
    return layer, inputs, slots


def of_arrays(layer):
    params, static = eqx.partition(layer, eqx.is_inexact_array)

    def forward(*arguments):
        params, inputs, slots = jax.tree.map(jnp.asarray, arguments)
        return tuple(eqx.combine(params, static)(inputs, slots=slots))

    return params, jax.jit(forward)


@pytest.mark.parametrize("use_custom_vjp", [True, False])
def test_numerical_gradients_to_second_order(use_custom_vjp):
    with float64():
        layer, inputs, slots = small(use_custom_vjp=use_custom_vjp)
        params, forward = of_arrays(layer)
        modes = ["rev"] if use_custom_vjp else ["fwd", "rev"]
        check_grads(forward, (params, inputs, slots), order=2, modes=modes)


def test_hessian_is_that_of_autodiff():
    with float64():
        layer, inputs, slots = small()
        total = lambda layer: jax.jit(
            jax.hessian(lambda x: jnp.sum(layer(x, slots=slots).slots ** 2))
        )
        close(total(layer)(inputs), total(by_autodiff(layer))(inputs), 1e-12)


def test_forward_mode_needs_the_rule_off():
    layer, inputs, slots = make(), normal(0, 17, 11), normal(1, 3, 7)
    call = lambda layer: lambda x: layer(x, slots=slots).slots
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(call(layer), (inputs,), (inputs,))
    _, tangent = jax.jvp(call(by_autodiff(layer)), (inputs,), (inputs,))
    assert float(jnp.max(jnp.abs(tangent))) > 0


class Rounding(eqx.Module):
    """A competition in a dtype of its own."""

    def __call__(self, logits, *, mask, key):
        return Softmax()(logits, mask=mask).astype(jnp.bfloat16)


class Halved(WeightedSum):
    """A reduction of one's own."""

    def weights(self, attention, *, mask=None):
        return super().weights(attention, mask=mask) / 2


@pytest.mark.parametrize(
    "options", [{"competition": Rounding()}, {"reduction": Halved()}]
)
def test_parts_of_ones_own(options):
    layer, inputs, slots = make(**options), normal(0, 17, 11), normal(1, 3, 7)
    limit = 2e-2 if "competition" in options else 1e-5
    with jax.numpy_dtype_promotion("standard"):
        got = gradients(layer, inputs, slots)
        close(got, gradients(by_autodiff(layer), inputs, slots), limit)


def test_weights_of_numpy_are_constants():
    layer, inputs, slots = make(), normal(0, 17, 11), normal(1, 3, 7)
    where = lambda m: (m.key_proj.weight, m.value_proj.weight, m.cell.weight_ih)
    frozen = eqx.tree_at(where, layer, tuple(map(np.asarray, where(layer))))

    def gradient(layer):
        def total(bias):
            own = eqx.tree_at(lambda m: m.norm_inputs.bias, layer, bias)
            return jnp.sum(own(inputs, slots=slots).slots ** 2)

        return jax.jit(jax.grad(total))(layer.norm_inputs.bias)

    assert_close(gradient(frozen), gradient(layer))


@pytest.mark.parametrize("part", ["cell", "competition", "activation"])
def test_what_a_part_closes_over_gets_its_gradient(part):
    layer, inputs, slots = make(), normal(0, 17, 11), normal(1, 3, 7)
    plain = {
        "cell": lambda factor: lambda u, s: layer.cell(factor * u, s),
        "competition": lambda factor: (
            lambda x, *, mask, key: layer.competition(factor * x, mask=mask, key=key)
        ),
        "activation": lambda factor: lambda x: factor * jax.nn.relu(x),
    }
    where = lambda m: m.mlp.activation if part == "activation" else getattr(m, part)

    @jax.jit
    @jax.grad
    def gradient(factor):
        own = eqx.tree_at(where, layer, plain[part](factor))
        return jnp.sum(own(inputs, slots=slots).slots ** 2)

    def value(factor):
        scales = {
            "cell": lambda m: m.value_proj.weight,
            "competition": lambda m: m.query_proj.weight,
            "activation": lambda m: m.mlp.layers[1].weight,
        }
        scale = scales[part]
        same = eqx.tree_at(scale, layer, factor * scale(layer))
        return jnp.sum(same(inputs, slots=slots).slots ** 2)

    want = jax.jit(jax.grad(value))(1.0)
    assert abs(float(want)) > 1e-3
    np.testing.assert_allclose(gradient(1.0), want, rtol=1e-4)


def test_vmap_of_everything_equals_a_loop():
    # Also where sets share their inputs, or all share the layer.
    with float64():
        build = lambda seed: as_float64(make(seed, use_qkv_bias=True, num_iters=2))
        layers = [build(seed) for seed in range(2)]
        arrays = [eqx.filter(layer, eqx.is_inexact_array) for layer in layers]
        stacked = eqx.combine(jax.tree.map(lambda *x: jnp.stack(x), *arrays), layers[0])
        inputs = normal(2, 2, 17, 11, dtype=jnp.float64)
        slots = normal(3, 2, 3, 7, dtype=jnp.float64)
        masks = normal(4, 2, 17) > 0

        def gradient(layer, inputs, slots, mask):
            call = lambda layer, *args, **kw: layer(*args, **kw, input_mask=mask)
            return gradients(layer, inputs, slots, call)

        axes = (eqx.if_array(0), 0, 0, 0)
        for shared in (None, 0, 1):
            given, in_axes = [stacked, inputs, slots, masks], list(axes)
            each = [[layers[i], inputs[i], slots[i], masks[i]] for i in range(2)]
            if shared is not None:
                given[shared], in_axes[shared] = each[0][shared], None
                for one in each:
                    one[shared] = each[0][shared]
            got = eqx.filter_vmap(gradient, in_axes=tuple(in_axes))(*given)
            for i, one in enumerate(each):
                want = gradient(*one)
                close([leaf[i] for leaf in jax.tree.leaves(got)], want, 1e-12)


def test_gradients_inside_scan_and_checkpoint():
    with float64():
        layer, inputs, slots = problem()

        def loop(slots, inputs):
            for _ in range(3):
                slots = layer(inputs + slots[0, 0], slots=slots).slots
            return jnp.sum(slots**2)

        def scanned(slots, inputs):
            call = jax.checkpoint(lambda s, x: layer(x, slots=s).slots)
            once = lambda slots, _: (call(slots, inputs + slots[0, 0]), None)
            return jnp.sum(jax.lax.scan(once, slots, length=3)[0] ** 2)

        got, want = (
            jax.jit(jax.grad(total, argnums=(0, 1)))(slots, inputs)
            for total in (scanned, loop)
        )
        close(got, want, 1e-12)


def test_temporaries_hardly_grow_with_rounds():
    # Of what autodiff keeps (attention and a gradient of the inputs for each round).
    def temporaries(layer, num_iters):
        params, static = eqx.partition(layer, eqx.is_inexact_array)
        inputs, slots = jnp.zeros((2048, 64)), jnp.zeros((7, 64))

        def total(params, inputs):
            layer = eqx.combine(params, static)
            return jnp.sum(layer(inputs, slots=slots, num_iters=num_iters).slots)

        compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(params, inputs)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    layer = make(input_size=64, slot_size=64, qkv_size=64, num_slots=7)
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        few, many = temporaries(layer, 3), temporaries(layer, 9)
        autodiff = temporaries(by_autodiff(layer), 9)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    inputs = 4 * 2048 * 64
    assert few < 2 * inputs
    assert many < few
    assert many < autodiff / 2
