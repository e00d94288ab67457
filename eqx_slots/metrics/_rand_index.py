import jax.numpy as jnp
from einops import reduce
from jaxtyping import Array, Float, Int

from ._counts import count_labels, count_masks, Counts
from ._score import Score


def adjusted_rand_index(
    true: Int[Array, "*pixels"],
    predicted: Int[Array, "*pixels"],
    *,
    num_true: int,
    num_predicted: int,
    ignore_background: bool = False,
) -> Score:
    r"""Adjusted Rand index: agreement on which pixels belong together.

    $$\mathrm{ARI} = \frac{R - E}{M - E}, \qquad
    R = \sum_{ij} p(n_{ij}), \quad E = A B, \quad M = (A + B) / 2$$

    with $p(n) = n (n - 1) / (N (N - 1))$ the share of pixel pairs, $n_{ij}$ the pixels
    of true object $i$ in predicted object $j$, and $A$, $B$ the sums of $p$ over the
    sizes of the true and of the predicted objects (Hubert and Arabie 1985). 1 is
    perfect, 0 is chance; names of labels do not matter.

    The field's FG-ARI is `ignore_background=True`: pixels whose truth is 0 do not count
    and every predicted label does. It does not see if the background is whole.

    **Arguments:**

    - `true`: The true labels, in `[0, num_true)`, all of one example: what is not
        mapped by `jax.vmap` is scored as one large image.
    - `predicted`: The predicted labels, in `[0, num_predicted)`.
    - `num_true`, `num_predicted`: How many labels there can be; Python integers.
        (Keyword only arguments.)
    - `ignore_background`: Leave out the pixels whose true label is 0. (Keyword only
        argument.)

    **Returns:**

    The value that scikit-learn gives, 1 for two trivial partitions included. It is
    `valid` where the counted pixels hold at least two true labels: with one label a
    single stray pixel turns 1 into 0, with none there is nothing to score. Labels out
    of range make it not `valid` either; floats or other shapes are a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import metrics

    true = jnp.array([0, 0, 1, 1])
    score = metrics.adjusted_rand_index(true, 6 - true, num_true=2, num_predicted=7)
    print(score.value, score.valid, metrics.mean(score))  # 1.0 True 1.0
    ```
    """
    counts = count_labels(true, predicted, num_true, num_predicted)
    return _rand_index(counts, ignore_background)


def soft_adjusted_rand_index(
    true: Int[Array, "*pixels"],
    masks: Float[Array, " slots *pixels"],
    *,
    num_true: int,
    ignore_background: bool = False,
) -> Score:
    r"""Adjusted Rand index of the masks as they are, no arg-max in between.

    The index of [`eqx_slots.metrics.adjusted_rand_index`][] with the *expected* numbers
    of pixel pairs where each pixel draws its owner from its masks, independently of the
    others: two pixels are together with probability $\sum_k m_k(x) \, m_k(y)$. So

    $$R = \sum_{ij} \frac{\bar n_{ij}^2 - \bar n_{ij} + v_{ij}}{N (N - 1)}, \qquad
    \bar n_{ij} = \sum_{x \in i} m_j(x), \quad
    v_{ij} = \sum_{x \in i} m_j(x) (1 - m_j(x))$$

    are the mean and the variance of the pixels of true object $i$ in slot $j$, and
    likewise for the sizes of the slots. Nothing is drawn. Masks of 0 and 1 have the
    value of their labels; a background that four slots paint a quarter each, which an
    arg-max may call whole, has less.

    **Arguments:**

    - `true`: The true labels, in `[0, num_true)`, all of one example.
    - `masks`: The share of each slot in each pixel, such as `made.masks` of a
        [`eqx_slots.models.Reconstruction`][].
    - `num_true`: How many labels there can be; a Python integer. (Keyword only
        argument.)
    - `ignore_background`: Leave out the pixels whose true label is 0. (Keyword only
        argument.)

    **Returns:**

    1 at best, `valid` where the counted pixels hold at least two true labels, all
    labels are in range, and the masks of every pixel are non-negative and sum to 1 up
    to the rounding of their dtype. Other shapes, or masks of integers, are a
    `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import metrics

    true = jnp.array([0, 0, 0, 1, 1, 1])
    shares = jnp.array([[0.6, 0.4, 0.0], [0.0, 0.0, 1.0]])  # two slots for label 0
    masks = shares[true].transpose()
    labels, sizes = jnp.argmax(masks, axis=0), {"num_true": 2}
    hard = metrics.adjusted_rand_index(true, labels, num_predicted=3, **sizes)
    soft = metrics.soft_adjusted_rand_index(true, masks, **sizes)
    print(hard.value, f"{soft.value:.2f}")  # 1.0 0.79
    ```
    """
    return _rand_index(count_masks(true, masks, num_true), ignore_background)


def _rand_index(counts: Counts, ignore_background: bool) -> Score:
    together, variance, valid = counts
    if ignore_background:
        together, variance = together[1:], variance[1:]
    pixels = jnp.sum(together)
    sizes = reduce(together, "true predicted -> true 1", "sum")
    predicted_sizes = reduce(together, "true predicted -> 1 predicted", "sum")

    # The formula above takes differences of numbers close to 1 where the background is
    # large. In terms of pairs of pixels that are together in both, in one, in none, it
    # needs no difference that cancels (Steinley 2004). Shares of pairs, not numbers of
    # pairs: those overflow integers.
    pairs = jnp.maximum(pixels * (pixels - 1), 1)

    def share(others: Float[Array, "true predicted"]) -> Float[Array, ""]:
        return jnp.sum(together * (others / pairs))

    # A pixel is no pair with itself, whatever it draws; only pixels of one true object
    # can be the same.
    drawn = jnp.sum(variance / pairs)
    both = share(together - 1) + drawn
    only_true = share(sizes - together) - drawn
    only_predicted = share(predicted_sizes - together)
    neither = share(pixels - sizes - predicted_sizes + together)
    excess = 2 * (both * neither - only_true * only_predicted)
    most = (both + only_true) * (only_true + neither)
    most += (both + only_predicted) * (only_predicted + neither)
    # One label everywhere on both sides, or every pixel alone on both: the same.
    trivial = most == 0
    value = jnp.where(trivial, 1, excess / jnp.where(trivial, 1, most))
    return Score(value, valid & (jnp.sum(sizes > 0) >= 2))
