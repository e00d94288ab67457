import jax
import jax.numpy as jnp
from einops import einsum
from jaxtyping import Array, Float

from .._misc import accumulator_dtype, as_array, check_floating, check_shape
from ._slots import MAPPED


def temporal_feature_similarity(
    logits: Float[Array, "frames inputs inputs"],
    features: Float[Array, "frames inputs width"],
    *,
    temperature: float = 0.075,
    threshold: float = 0.0,
) -> Float[Array, ""]:
    r"""Where will each patch be in the next frame? VideoSAUR's loss, for videos.

    With $c_{tnm}$ the cosine of the features of patch $n$ in frame $t$ and patch $m$ in
    frame $t + 1$, the target for patch $n$ is the distribution

    $$p_{tnm} = \mathrm{softmax}_m(c_{tnm} / \tau)$$

    over those $m$ with $c_{tnm} \ge$ `threshold` (over all alike, where there is none),
    and the loss is the cross-entropy of what slots say of it. What moves together has
    to be told by one slot, what looks alike and moves apart by two.

    **Arguments:**

    - `logits`: What a decoder with as many outputs as patches makes of the slots, for
        each frame. The last frame has no next one and is not used.
    - `features`: Those of a frozen backbone, of which VideoSAUR takes the keys of the
        last attention. No gradient flows to them.
    - `temperature`: $\tau$; VideoSAUR has 0.075 for MOVi and 0.25 for YouTube-VIS.
        (Keyword only argument.)
    - `threshold`: Least cosine that counts; -1 counts all. (Keyword only argument.)

    **Returns:**

    The mean over patches and pairs of frames, in float32 at least. Fewer than two
    frames, a temperature that is not positive or arrays that do not fit each other are
    a `ValueError`.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots import losses

    features = jnp.stack([jnp.eye(4), jnp.eye(4)[::-1]])  # two frames, turned round
    right = 100 * jnp.stack([jnp.eye(4)[::-1], jnp.eye(4)])
    print(losses.temporal_feature_similarity(right, features) < 1e-3)  # True
    print(losses.temporal_feature_similarity(-right, features) > 50)  # True
    ```

    ??? cite

        Zadaianchuk et al., *Object-Centric Learning for Real-World Videos by Predicting
        Temporal Feature Similarities*, NeurIPS 2023.
    """
    logits, features = as_array("logits", logits), as_array("features", features)
    check_floating("logits", logits)
    check_floating("features", features)
    axes = "frames inputs width"
    check_shape("features", features, axes, (-1, -1, -1), batch=MAPPED)
    frames, inputs, _ = features.shape
    axes = "frames inputs next_inputs"
    check_shape("logits", logits, axes, (frames, inputs, inputs), batch=MAPPED)
    if frames < 2:
        raise ValueError(
            "`features` must be of two frames at least, got one: the loss is on what"
            " comes next."
        )
    if not temperature > 0:
        raise ValueError(f"`temperature` must be positive, got {temperature}.")
    wide = accumulator_dtype(features.dtype)
    target = _target(features.astype(wide), temperature, threshold)
    said = jax.nn.log_softmax(logits[:-1].astype(wide), axis=2)
    return -jnp.mean(jnp.sum(target * said, axis=2))


def _target(
    features: Float[Array, "frames inputs width"], temperature: float, threshold: float
) -> Float[Array, "pairs inputs next_inputs"]:
    features = jax.lax.stop_gradient(features)
    size = jnp.linalg.norm(features, axis=2, keepdims=True)
    unit = features / jnp.maximum(size, 1e-12)
    cosine = einsum(unit[:-1], unit[1:], "pairs n d, pairs m d -> pairs n m")
    counts = cosine >= threshold
    logits = jnp.where(counts, cosine / temperature, -jnp.inf)
    none = ~jnp.any(counts, axis=2, keepdims=True)
    return jax.nn.softmax(jnp.where(none, 0, logits), axis=2)
