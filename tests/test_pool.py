import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots import data, training
from eqx_slots.data import blocks, sprites


def numbered(key):
    """A scene that says which one it is: by its key, in the place of an object."""
    scene = sprites.scene(key, image_size=(16, 16), sprite_size=(3.0, 6.0))
    number = jr.randint(key, (1,), 0, 2**31 - 1)
    return scene._replace(objects=number)


def test_every_scene_once_an_epoch_and_in_another_order():
    batch_at = data.pool(numbered, jr.key(0), 23, batch_size=5)
    call = eqx.filter_jit(batch_at)
    epochs = [
        np.concatenate([call(4 * epoch + i).objects[:, 0] for i in range(4)])
        for epoch in range(3)
    ]
    known = set(np.asarray(batch_at.scenes.objects[:, 0]).tolist())
    assert len(known) == 23
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 20
        assert set(epoch.tolist()) <= known
    assert epochs[0].tolist() != epochs[1].tolist() != epochs[2].tolist()
    again = np.concatenate([call(jnp.asarray(4 + i)).objects[:, 0] for i in range(4)])
    np.testing.assert_array_equal(again, epochs[1])


def test_scenes_are_those_of_the_painter():
    batch_at = data.pool(blocks.scene, jr.key(1), 20, batch_size=20)
    assert batch_at.scenes.image.dtype == jnp.uint8
    assert batch_at.scenes.segmentation.dtype == jnp.uint8
    made = eqx.filter_jit(batch_at)(7)
    keys = jr.split(jr.split(jr.key(1))[1], 20)
    want = jax.jit(jax.vmap(blocks.scene))(keys)
    made, want = jax.tree.map(np.asarray, (made, want))
    order = [
        int(np.flatnonzero(np.all(want.segmentation == x, axis=(1, 2)))[0])
        for x in made.segmentation
    ]
    assert sorted(order) == list(range(20))
    np.testing.assert_array_equal(made.segmentation, want.segmentation[np.array(order)])
    for x, y in zip(made.objects, want.objects):
        np.testing.assert_array_equal(x, y[np.array(order)])
    np.testing.assert_allclose(
        made.image, want.image[np.array(order)], atol=0.5001 / 255
    )
    assert made.segmentation.dtype == want.segmentation.dtype


def test_a_pool_of_videos():
    options = {"image_size": (16, 16), "sprite_size": (3.0, 6.0), "num_frames": 2}
    batch_at = data.pool(
        functools.partial(sprites.video, **options), jr.key(1), 3, batch_size=3
    )
    assert batch_at.scenes.images.dtype == jnp.uint8
    made = eqx.filter_jit(batch_at)(0)
    assert isinstance(made, data.Video)
    assert made.segmentation.dtype == jnp.int32
    assert made.images.shape == (3, 2, 3, 16, 16)
    number = 1 + jnp.arange(5)[:, None, None]
    seen = made.segmentation[:, :, None] == jnp.broadcast_to(number, (3, 2, 5, 1, 1))
    np.testing.assert_array_equal(made.visible, seen.sum(axis=(3, 4)))


def test_a_pool_is_no_part_of_the_program():
    """It is an argument of what is compiled: a thousand pictures are no constant."""
    batch_at = data.pool(numbered, jr.key(0), 400, batch_size=4)
    mesh = training.data_mesh(jax.devices()[:1])
    spread = training.shard_batches(batch_at, mesh)
    jax.tree.map(np.testing.assert_array_equal, spread(3), eqx.filter_jit(batch_at)(3))
    (call,) = jax.make_jaxpr(spread)(3).eqns[-1:]
    inside = jax.tree.leaves(call.params["jaxpr"].consts)
    assert sum(x.size for x in inside) < 100 < batch_at.scenes.image.size
    assert (
        sum(math.prod(x.aval.shape) for x in call.invars) > batch_at.scenes.image.size
    )


@pytest.mark.usefixtures("as_users_run")
def test_mistakes():
    with pytest.raises(ValueError, match="3 scenes for batches of 4"):
        data.pool(blocks.scene, jr.key(0), 3, batch_size=4)
    with pytest.raises(ValueError, match="`size` must be a positive integer"):
        data.pool(blocks.scene, jr.key(0), 0, batch_size=1)
