from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from .._misc import check_key, check_positive
from ._scene import Scene, Video


_Painted = TypeVar("_Painted", Scene, Video)


class Pool(eqx.Module, Generic[_Painted]):
    """Batches of scenes that are painted already, by the number of the step.

    **Fields:**

    - `scenes`: All scenes, or videos, one beside the other; images and segmentations
        are bytes.
    - `key`: Randomness of their order.
    - `batch_size`: Scenes in a batch.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import data

    batch_at = data.pool(data.blocks.scene, jr.key(0), 64, batch_size=16)
    print(isinstance(batch_at, data.Pool), batch_at.scenes.image.dtype)  # True uint8
    print(eqx.filter_jit(batch_at)(0).image.shape)  # (16, 3, 32, 32)
    ```
    """

    scenes: _Painted
    key: PRNGKeyArray
    batch_size: int = eqx.field(static=True)

    def __call__(self, step: int | Int[Array, ""]) -> _Painted:
        """The batch of a step, the same whenever it is asked for.

        Every scene comes once in an epoch of `size // batch_size` steps, and in another
        order in each; what is left over comes in another epoch.

        **Arguments:**

        - `step`: Number of the step, from 0.

        **Returns:**

        A [`eqx_slots.data.Scene`][] or a [`eqx_slots.data.Video`][] with one axis more
        in front: images in [0, 1] to the nearest of 256 steps, the rest as it was
        painted.
        """
        size = self.scenes.segmentation.shape[0]
        epoch, place = jnp.divmod(jnp.asarray(step), size // self.batch_size)
        order = jr.permutation(jr.fold_in(self.key, epoch), size)
        start = place * self.batch_size
        index = jax.lax.dynamic_slice(order, (start,), (self.batch_size,))
        batch = jax.tree.map(lambda x: x[index], self.scenes)
        image, segmentation, *rest = batch
        image, segmentation = image.astype(float) / 255, segmentation.astype(jnp.int32)
        return batch._make((image, segmentation, *rest))


def pool(
    scene: Callable[[PRNGKeyArray], _Painted],
    key: PRNGKeyArray,
    size: int,
    *,
    batch_size: int,
) -> Pool[_Painted]:
    """Paint scenes once, and give batches of them by the number of the step.

    For scenes that take long to paint, such as [`eqx_slots.data.solids.scene`][]: a
    model that sees each of some thousand scenes many times is trained as well as one
    that never sees a scene twice. Images are kept as bytes.

    A pool is a pytree. Call it as `eqx.filter_jit(batch_at)(step)`, or hand it to
    [`eqx_slots.training.shard_batches`][]; a function that uses one is given it as an
    argument, as in `jax.tree_util.Partial(function, batch_at)`, since what a compiled
    function only closes over is compiled into it.

    **Arguments:**

    - `scene`: Paints a scene from a key, such as
        `functools.partial(solids.scene, image_size=(64, 64))`, or a video. It has to be
        traceable by `jax.jit`, with at most 255 objects.
    - `key`: Randomness of the scenes and of their order.
    - `size`: How many scenes.
    - `batch_size`: How many are in a batch. (Keyword only argument.)

    **Returns:**

    A [`eqx_slots.data.Pool`][]. A `ValueError` says so if there are fewer scenes than
    in a batch.

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import data

    batch_at = data.pool(data.sprites.scene, jr.key(0), 64, batch_size=16)
    scenes = eqx.filter_jit(batch_at)(100)
    print(scenes.image.shape, scenes.image.dtype)  # (16, 3, 64, 64) float32
    ```
    """
    check_key(key)
    check_positive(size=size, batch_size=batch_size)
    if size < batch_size:
        raise ValueError(
            f"`size` must be `batch_size` at least, got {size} scenes for batches of"
            f" {batch_size}."
        )
    order_key, paint_key = jr.split(key)

    def one(key: PRNGKeyArray) -> _Painted:
        painted: Any = scene(key)
        image, segmentation, *rest = painted
        return painted._make((_bytes(255 * image), _bytes(segmentation), *rest))

    paint = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=16))
    return Pool(paint(jr.split(paint_key, size)), order_key, batch_size)


def _bytes(numbers: Any) -> UInt8[Array, "..."]:
    return jnp.round(numbers).astype(jnp.uint8)
