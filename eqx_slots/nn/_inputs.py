import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import einsum, rearrange
from jax.lax import Precision
from jaxtyping import Array

from .._misc import accumulator_dtype
from ._reduction import AbstractLinearReduction


# Where gradients are added up: in as many blocks of inputs, so that as many devices
# find inputs of their own in each, in runs of at most as many.
BLOCKS, DEVICES, RUN = 8, 64, 16


class Direct(NamedTuple):
    """Queries and averages as they are, where keys and values have been made."""

    def rows(self, q: Array) -> tuple[Array, Array | None]:
        return q, None

    def updates(self, taken: Array, total: Array | None) -> Array:
        del total
        return taken


class Projected(NamedTuple):
    """A key and a value of every input, made once: the definition."""

    k: Array
    v: Array

    def scores(self, rows: Array) -> Array:
        return _products(rows, self.k)

    def taken(self, weights: Array) -> tuple[Array, None]:
        return _sums(weights, self.v), None

    def scores_and_d_weights(self, rows: Array, d_taken: Array) -> tuple[Array, Array]:
        return _products(rows, self.k), _products(d_taken, self.v)

    def d_rows(self, d_scores: Array) -> Array:
        return _sums(d_scores, self.k)

    def factors(
        self, rows: Array, d_taken: Array, d_scores: Array, weights: Array
    ) -> Any:
        return (d_scores, rows), (weights, d_taken)

    def product(self, factors: Any) -> tuple[Array, Array]:
        keys, values = factors
        return _outer(*keys), _outer(*values)

    def no_product(self) -> tuple[Array, Array]:
        return _zeros_like(self.k), _zeros_like(self.v)

    def plus_product(self, total: tuple[Array, Array], factors: Any) -> Any:
        """`total` and the product of one round."""
        return tuple(_plus_outer(one, *two) for one, two in zip(total, factors))

    def cotangent(
        self, product: tuple[Array, Array], *, in_place: bool = False
    ) -> "Projected":
        del in_place
        return Projected(*(x.astype(self.k.dtype) for x in product))


class Absorbed(NamedTuple):
    r"""The projections, and the LayerNorm's scale and shift, done to the few instead.

    Keys and values are linear in the normalised inputs $\hat x_n$: $k_n = A_k \hat x_n
    + c_k$ with $A_k = W_k \, \mathrm{diag}(\gamma)$ and $c_k = W_k \beta + b_k$, and
    values alike. So neither has to be made. The few queries are taken back into the
    space of the inputs, the inputs are averaged, and the few averages projected:

    $$q^\top k_n = (A_k^\top q)^\top \hat x_n + q^\top c_k, \qquad
    \sum_n w_n v_n = A_v \Big(\sum_n w_n \hat x_n\Big) + c_v \sum_n w_n$$

    The offset of a logit differs from slot to slot, so the softmax over slots does not
    cancel it, and the sum of weights is 1 for the weighted mean alone.
    """

    key_weight: Array
    key_offset: Array
    value_weight: Array
    value_offset: Array

    def rows(self, q: Array) -> tuple[Array, Array]:
        rows = einsum(q, self.key_weight, "... k d, ... d i -> ... k i")
        return _centred(rows), einsum(q, self.key_offset, "... k d, ... d -> ... k")

    def updates(self, taken: Array, total: Array) -> Array:
        taken = _centred(taken)
        updates = einsum(taken, self.value_weight, "... k i, ... d i -> ... k d")
        return updates + einsum(total, self.value_offset, "... k, ... d -> ... k d")


class Raw(NamedTuple):
    r"""The inputs as they came, and for each its mean and one over its deviation.

    Not even the normalised inputs are made. $\hat x_n = P x_n / \sigma_n$, where $P$
    takes the mean off a vector; it is a projection, and acts on the few as well:

    $$r^\top \hat x_n = (P r)^\top x_n / \sigma_n, \qquad
    \sum_n w_n \hat x_n = P \sum_n (w_n / \sigma_n) \, x_n$$

    `Absorbed` sees to $P$.
    """

    inputs: Array
    mean: Array
    inverse: Array

    def scores(self, rows: Array) -> Array:
        scores = _products(rows, self.inputs)
        return scores * jnp.broadcast_to(self.inverse, scores.shape)

    def taken(self, weights: Array) -> tuple[Array, Array]:
        return self.d_rows(weights), jnp.sum(weights, -1)

    def d_rows(self, d_scores: Array) -> Array:
        inverse = jnp.broadcast_to(self.inverse, d_scores.shape)
        return _sums(d_scores * inverse, self.inputs)

    def scores_and_d_weights(self, rows: Array, d_taken: Array) -> tuple[Array, Array]:
        both = self.scores(jnp.concatenate([rows, d_taken], -2))
        scores, d_weights = jnp.split(both, 2, -2)
        return scores, d_weights

    def factors(
        self, rows: Array, d_taken: Array, d_scores: Array, weights: Array
    ) -> Any:
        weights = jnp.concatenate([d_scores, weights], -2)
        return weights, jnp.concatenate([rows, d_taken], -2)

    def product(self, factors: Any) -> Array:
        """What reaches the normalised inputs, which all heads share."""
        weights, rows = factors
        return _outer(_of_all_heads(weights, 4), _of_all_heads(rows, 4))

    def no_product(self) -> Array:
        return _zeros_like(self.inputs)

    def plus_product(self, total: Array, factors: Any) -> Array:
        """`total` and the product of one round."""
        weights, rows = factors
        return _plus_outer(total, _of_all_heads(weights, 3), _of_all_heads(rows, 3))

    def cotangent(self, product: Array, *, in_place: bool = False) -> "Raw":
        r"""Back through the LayerNorm.

        $$\bar x_n = \frac{1}{\sigma_n} \Big(P \bar{\hat x}_n
        - \hat x_n \, \mathrm{mean}(\hat x_n \odot \bar{\hat x}_n)\Big)$$

        Every row that $\bar{\hat x}_n$ is made of has a mean of zero: $P$ is done.
        """

        def back(product: Array, inputs: Array, mean: Array, inverse: Array) -> Array:
            normed = (inputs.astype(mean.dtype) - mean) * inverse
            along = jnp.mean(normed * product, 1, keepdims=True)
            return (product - normed * along) * inverse

        # Without the barrier XLA keeps the variance's centred inputs until here.
        mean, inverse = jax.lax.optimization_barrier((self.mean, self.inverse))
        inputs = self.inputs
        if inputs.dtype != mean.dtype:  # nor those that the mean has widened
            inputs = jax.lax.optimization_barrier(inputs)
        seen = inputs, mean[:, None], inverse[:, None]
        d_inputs = (
            _by_blocks(back, product, *seen) if in_place else back(product, *seen)
        )
        # What comes by way of mean and deviation is in it already. `None` rather than
        # zeros, which would be taken back to the inputs at the cost of a pass.
        nothing: Any = None
        d_inputs = d_inputs.astype(self.inputs.dtype)
        return self._replace(inputs=d_inputs, mean=nothing, inverse=nothing)


def seen_by(
    layer: Any, inputs: Array, num_slots: int, num_iters: int, *, widen: bool
) -> Any:
    """The inputs as the slots of a layer attend to them, in the cheaper order.

    `widen`: in float32 at least, for whoever takes their gradients by autodiff.
    """
    wide = accumulator_dtype(inputs.dtype)
    kept = wide if widen else inputs.dtype
    if not _absorbs(layer, num_slots, num_iters):
        normed = jax.vmap(layer.norm_inputs)(inputs)
        k, v = jax.vmap(layer.key_proj)(normed), jax.vmap(layer.value_proj)(normed)
        k, v = (split(x.astype(kept), layer.num_heads) for x in (k, v))
        return Direct(), Projected(k, v)
    norm = layer.norm_inputs
    mean, again = jnp.mean(inputs, 1, dtype=wide), inputs
    if inputs.dtype != wide:  # or XLA would write out the wide ones, for both to read
        mean, again = jax.lax.optimization_barrier((mean, inputs))
    variance = jnp.mean(jnp.square(again.astype(wide) - mean[:, None]), 1)
    seen = Raw(inputs.astype(kept), mean, jax.lax.rsqrt(variance + norm.eps))

    def absorbed(proj: eqx.nn.Linear) -> tuple[Array, Array]:
        weight = jnp.asarray(proj.weight, wide)  # NumPy's too
        if norm.bias is None:
            offset = jnp.zeros(weight.shape[0], wide)
        else:
            offset = einsum(weight, norm.bias.astype(wide), "d i, i -> d")
        if proj.bias is not None:
            offset = offset + proj.bias.astype(wide)
        if norm.weight is not None:
            weight = weight * norm.weight.astype(wide)[None, :]
        if layer.num_heads > 1:
            heads = {"heads": layer.num_heads}
            weight = rearrange(weight, "(heads d) i -> heads d i", **heads)
            offset = rearrange(offset, "(heads d) -> heads d", **heads)
        return weight, offset

    return Absorbed(*absorbed(layer.key_proj), *absorbed(layer.value_proj)), seen


def split(x: Array, heads: int) -> Array:
    """The part of each head, in front; one head needs no axis."""
    if heads == 1:
        return x
    return rearrange(x, "n (heads d) -> heads n d", heads=heads)


def _centred(rows: Array) -> Array:
    return rows - jnp.mean(rows, -1, keepdims=True)


# The products with all inputs, which take nearly all the time. In full precision: the
# sums run in float32, as promised, and with few slots there is little to multiply.
def _products(rows: Array, seen: Array) -> Array:
    products = lambda rows: _multiplied("...ni,...ki->...nk", seen, rows)
    made = _by_halves(products, rows, seen.dtype, axis=-1)
    # Inputs in front, and not fused with the softmax that follows: XLA on CPU is slower
    # at either.
    return jnp.swapaxes(jax.lax.optimization_barrier(made), -1, -2)


def _sums(weights: Array, seen: Array) -> Array:
    sums = lambda weights: _multiplied("...kn,...ni->...ki", weights, seen)
    return _by_halves(sums, weights, seen.dtype, axis=-2)


def _multiplied(equation: str, *factors: Array) -> Array:
    wide = accumulator_dtype(factors[0].dtype)
    options: Any = {"precision": Precision.HIGHEST, "preferred_element_type": wide}
    return jnp.einsum(equation, *factors, **options)


def _by_halves(
    product: Callable[[Array], Array], rows: Array, dtype: jnp.dtype, *, axis: int
) -> Array:
    """What `product` makes of rows, along an `axis`, with inputs of another `dtype`.

    Inputs in half precision stay as they are, and the few rows become two each: what
    they are rounded to, and what that took. Together they have 16 bits in bfloat16 and
    22 in float16, where the slots that they come from have 8 and 11.
    """
    if rows.dtype == dtype:
        return product(rows)
    narrow, wide, unit = jnp.finfo(dtype), jnp.finfo(rows.dtype), None
    if narrow.maxexp < wide.maxexp:
        # Into the range of float16, by the power of two next to a row's largest.
        largest = jnp.max(jnp.abs(rows), -1, keepdims=True)
        unit = jnp.where(largest >= wide.tiny, largest, 1)
        unit = jax.lax.reduce_precision(unit, wide.nexp, 0)
        rows = rows / unit
    # A conversion there and back is one that a compiler may leave out.
    rounded = jax.lax.reduce_precision(rows, narrow.nexp, narrow.nmant)
    halves = jnp.concatenate([rounded, rows - rounded], -2).astype(dtype)
    upper, lower = jnp.split(product(halves), 2, axis)
    whole = upper + lower
    return whole if unit is None else whole * jnp.moveaxis(unit, -2, axis)


def _outer(weights: Array, rows: Array) -> Array:
    precision = Precision.HIGHEST
    return jnp.einsum("t...kn,t...ki->...ni", weights, rows, precision=precision)


def _plus_outer(total: Array, weights: Array, rows: Array) -> Array:
    def plus(total: Array, weights: Array) -> Array:
        return total + _outer(weights.mT[None], rows[None])

    return _by_blocks(plus, total, weights.mT)


def _by_blocks(update: Callable[..., Array], total: Array, *others: Array) -> Array:
    """`update(total, *others)`, a share of the inputs, axis -2 of all, at a time.

    The share is written where it was read. Done to all at once there would be a second
    array as large as the inputs. A block takes runs of inputs from everywhere, so that
    a device that holds a part of the inputs holds a part of each block; where the
    number of inputs does not allow that, all are one block.
    """
    inputs, chunk = total.shape[-2], BLOCKS * DEVICES
    run = 1 if inputs % chunk else math.gcd(RUN, inputs // chunk)
    if run == 1:
        return update(total, *others)
    cut = lambda x: rearrange(
        x, "... (at block run) i -> ... at block run i", block=BLOCKS, run=run
    )
    total, *rest = map(cut, (total, *others))

    def one(block: Array, total: Array) -> Array:
        shares = [
            rearrange(
                jax.lax.dynamic_index_in_dim(x, block, x.ndim - 3, keepdims=False),
                "... at run i -> ... (at run) i",
            )
            for x in (total, *rest)
        ]
        made = rearrange(update(*shares), "... (at run) i -> ... at run i", run=run)
        return jax.lax.dynamic_update_index_in_dim(total, made, block, total.ndim - 3)

    total = jax.lax.fori_loop(0, BLOCKS, one, total)
    return rearrange(total, "... at block run i -> ... (at block run) i")


def _of_all_heads(x: Array, num_axes: int) -> Array:
    """The slots of all heads as those of one, where there is an axis of heads."""
    if x.ndim < num_axes:
        return x
    return rearrange(x, "... heads slots n -> ... (heads slots) n")


def _absorbs(layer: Any, num_slots: int, num_iters: int) -> bool:
    """Whether absorbing is possible and takes fewer multiplications.

    For each input, keys and values take 2 D Q, and each round 2 K Q for logits and
    averages; absorbed, a round takes 2 K H D and there is nothing before. D is the
    width of an input, Q that of all heads together, H their number, K that of slots.
    """
    # Anything but the plain modules may do as it likes: it is called.
    plain = type(layer.norm_inputs) is eqx.nn.LayerNorm and all(
        type(proj) is eqx.nn.Linear for proj in (layer.key_proj, layer.value_proj)
    )
    if not plain or not isinstance(layer.reduction, AbstractLinearReduction):
        return False
    qkv_size, input_size = layer.key_proj.weight.shape
    a_round = num_slots * (layer.num_heads * input_size - qkv_size)
    return num_iters * a_round < input_size * qkv_size


def _zeros_like(seen: Array) -> Array:
    """Where gradients of what is seen are added up."""
    return jnp.zeros_like(seen, dtype=accumulator_dtype(seen.dtype))
