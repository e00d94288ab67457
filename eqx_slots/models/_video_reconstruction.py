from typing import NamedTuple

from jaxtyping import Array, Float


class Painted(NamedTuple):
    """What [`eqx_slots.models.SlotVideo.paint`][] makes of the slots of some frames.

    **Fields:**

    - `images`: What the slots paint together, `frames channels height width`.
    - `rgb`: What each of them paints alone, `frames slots channels height width`.
    - `masks`: The share of each slot in each pixel, `frames slots height width`.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_eval_shape(presets.savi_small, key=jr.key(0))  # shapes alone
    painted = eqx.filter_eval_shape(model.paint, jnp.zeros((6, 24, 128)))
    print(painted.images.shape, painted.masks.shape)  # (6, 3, 64, 64) (6, 24, 64, 64)
    ```
    """

    images: Float[Array, "frames channels height width"]
    rgb: Float[Array, "frames slots channels height width"]
    masks: Float[Array, "frames slots height width"]


class VideoReconstruction(NamedTuple):
    """What a [`eqx_slots.models.SlotVideo`][] makes of one video.

    **Fields:**

    - `images`: What the slots paint together, `frames channels height width`.
    - `rgb`: What each of them paints alone, `frames slots channels height width`.
    - `masks`: The share of each slot in each pixel, `frames slots height width`.
    - `slots`: The slots as each frame has corrected them, `frames slots slot_size`.
    - `attention`: That of the last round in each frame over the encoder's places,
        `frames slots inputs`.
    - `predicted`: The slots as the next frame should find them, `frames slots
        slot_size`. The last are where a video goes on.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_eval_shape(presets.savi_small, key=jr.key(0))  # shapes alone
    video, boxes = jnp.zeros((6, 3, 64, 64)), jnp.zeros((10, 4))
    made = eqx.filter_eval_shape(model, video, hints=boxes)
    print(made.masks.shape, made.predicted.shape)  # (6, 24, 64, 64) (6, 24, 128)
    ```
    """

    images: Float[Array, "frames channels height width"]
    rgb: Float[Array, "frames slots channels height width"]
    masks: Float[Array, "frames slots height width"]
    slots: Float[Array, "frames slots slot_size"]
    attention: Float[Array, "frames slots inputs"]
    predicted: Float[Array, "frames slots slot_size"]
