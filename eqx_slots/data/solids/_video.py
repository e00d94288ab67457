"""Solids that slide, roll and collide, seen from a camera that may move."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ..._misc import check_key, check_positive
from .._motion import check_range, spins, velocities
from .._rays import along, cross, dot, through_pixels, Vector
from .._scene import only_where, Scene, track, Video
from ._arrange import arrange
from ._bodies import in_image
from ._kinds import BALL, SIZES, Solids, View
from ._render import render


_BOUND = 3.0  # middles stay between -3 and 3, as in a scene
_STEPS = 8  # a frame, for what collides


def video(
    key: PRNGKeyArray,
    *,
    num_frames: int,
    image_size: tuple[int, int] = (128, 128),
    num_objects: tuple[int, int] = (3, 6),
    min_visible: float = 0.0026,
    field_of_view: float = 31.0,
    speed: tuple[float, float] = (0.05, 0.3),
    spin: tuple[float, float] = (0.0, 0.2),
    orbit: float = 0.0,
) -> Video:
    """Paint one clip: the solids of a scene, which slide without friction and collide.

    On the ground they are discs with the weight of balls of that size, which bounce off
    each other and turn back at the edges of the square from -3 to 3, all without loss.
    Balls roll; cubes and cylinders turn evenly about the vertical. Flow is that of the
    points of their surfaces, and of the ground where the camera moves; shadows and
    mirror images have none of their own.

    **Arguments:** those of [`eqx_slots.data.solids.scene`][], whose rule of places and
    `min_visible` hold for the first frame, and

    - `num_frames`: How many frames. (Keyword only argument, as all that follow.)
    - `speed`: Least and greatest at first, in units of the ground a frame, uniform like
        the direction.
    - `spin`: Least and greatest, in radians a frame, uniform, to the left as to the
        right.
    - `orbit`: Most degrees a frame that the camera goes round what it looks at, one way
        or the other, uniform; 0 is a camera that stands still.

    **Returns:**

    A [`eqx_slots.data.Video`][] whose `objects` are [`eqx_slots.data.solids.Solids`][],
    with `depth` and `view`. A `ValueError` says so if a number is out of range.

    **Example:**

    ```python
    from functools import partial
    import jax
    import jax.random as jr
    from eqx_slots.data import solids

    paint = partial(solids.video, num_frames=3, image_size=(32, 32), orbit=4.0)
    video = jax.jit(paint)(jr.key(0))
    print(video.images.shape, video.view.camera.shape)  # (3, 3, 32, 32) (3, 3)
    ```
    """
    check_key(key)
    check_positive(num_frames=num_frames)
    check_range(speed=speed, spin=spin)
    if not 0 <= orbit <= 180:
        raise ValueError(f"`orbit` must be between 0 and 180 degrees, got {orbit}.")
    scene_key, speed_key, spin_key, orbit_key = jr.split(key, 4)
    objects, view = arrange(
        scene_key,
        image_size=image_size,
        num_objects=num_objects,
        min_visible=min_visible,
        field_of_view=field_of_view,
    )
    number = len(objects.size)
    velocity = velocities(speed, number, key=speed_key)
    turning = jnp.where(objects.shape == BALL, 0, spins(spin, number, key=spin_key))
    around = jnp.radians(orbit * jr.uniform(orbit_key, minval=-1))
    frames = moved(objects, velocity, turning, num_frames)
    views = _orbited(view, around, num_frames)

    def paint(frame: tuple[Solids, View]) -> Scene:
        objects, view = frame
        return render(objects, view, image_size)

    scenes = jax.lax.map(paint, (frames, views))
    boxes, visible = track(scenes.segmentation, number)
    exists = jax.vmap(lambda x: only_where(objects.present, x))
    return Video(
        scenes.image,
        scenes.segmentation,
        exists(scenes.objects),
        _flow(frames, views, scenes.depth, scenes.segmentation),
        boxes,
        visible,
        scenes.depth,
        views,
    )


def moved(
    objects: Solids,
    velocity: Float[Array, "objects 2"],
    turning: Float[Array, " objects"],
    num_frames: int,
) -> Solids:
    """The objects in each frame, the first as they are."""
    radius = jnp.asarray(SIZES)[objects.size]

    def frame(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        def step(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            place, velocity = state
            return _step(place, velocity, radius, objects.present)

        return jax.lax.fori_loop(0, _STEPS, step, state), state[0]

    start = (objects.coordinates[:, :2], velocity)
    _, places = jax.lax.scan(frame, start, None, length=num_frames)
    always = lambda x: jnp.broadcast_to(x, (num_frames, *x.shape))
    frames = jax.tree.map(always, objects)
    time = jnp.arange(num_frames, dtype=float)[:, None]
    rotation = frames.rotation + turning[None] * time
    heights = frames.coordinates[..., 2:]
    return frames._replace(
        coordinates=jnp.concatenate([places, heights], axis=-1),
        rotation=rotation % (2 * jnp.pi),
    )


def _step(
    place: Float[Array, "objects 2"],
    velocity: Float[Array, "objects 2"],
    radius: Float[Array, " objects"],
    exists: Bool[Array, " objects"],
) -> tuple[Float[Array, "objects 2"], Float[Array, "objects 2"]]:
    """An eighth of a frame. Who would be in another by its end turns round before."""
    first, second = (jnp.asarray(x) for x in np.triu_indices(len(radius), 1))
    weight = radius**3

    def meet(velocity: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        i, j = pair
        apart, closing = place[i] - place[j], velocity[i] - velocity[j]
        ahead = apart + closing / _STEPS
        touch = jnp.sum(ahead**2) < (radius[i] + radius[j]) ** 2
        nearing = jnp.sum(apart * closing)
        collides = exists[i] & exists[j] & touch & (nearing < 0)
        # The elastic collision of two discs, along the line between their middles.
        push = 2 * nearing / jnp.sum(apart**2) / (weight[i] + weight[j]) * apart
        push = jnp.where(collides, push, 0)
        velocity = velocity.at[i].add(-weight[j] * push)
        return velocity.at[j].add(weight[i] * push), None

    for _ in range(2):  # what one pair does may concern another
        ahead = place + velocity / _STEPS
        outwards = (jnp.abs(ahead) > _BOUND) & (ahead * velocity > 0)
        velocity = jnp.where(outwards, -velocity, velocity)
        velocity, _ = jax.lax.scan(meet, velocity, (first, second))
    return place + velocity / _STEPS, velocity


def _orbited(view: View, around: Float[Array, ""], num_frames: int) -> View:
    """The camera in each frame, as high as at first and as far away."""
    angle = around * jnp.arange(num_frames, dtype=float)
    x, y, z = view.camera
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    camera = jnp.stack([cos * x - sin * y, sin * x + cos * y, jnp.full_like(angle, z)])
    always = lambda x: jnp.broadcast_to(x, (num_frames, *x.shape))
    return jax.tree.map(always, view)._replace(camera=camera.T)


def _flow(
    frames: Solids,
    views: View,
    depth: Float[Array, "frames height width"],
    segmentation: Int[Array, "frames height width"],
) -> Float[Array, "frames 2 height width"]:
    """Where the point of a surface that a pixel shows was seen in the frame before."""
    _, height, width = segmentation.shape
    size = (height, width)

    def one(
        now: tuple[Solids, View, Array, Array], before: tuple[Solids, View]
    ) -> Float[Array, "2 height width"]:
        (objects, view, depth, label), (old_objects, old_view) = now, before
        camera = tuple(view.camera)
        rays = through_pixels(camera, view.field_of_view, size)
        point = along(camera, depth.ravel(), rays)
        was = was_at(point, label.ravel(), objects, old_objects)
        flow = in_image(was, old_view, size) - in_image(point, view, size)
        return flow.reshape(2, height, width)

    pick = lambda tree, part: jax.tree.map(lambda x: x[part], tree)
    now = pick((frames, views, depth, segmentation), slice(1, None))
    before = pick((frames, views), slice(None, -1))
    first = jnp.zeros((1, 2, height, width))
    return jnp.concatenate([first, jax.vmap(one)(now, before)])


def was_at(
    point: Vector, label: Int[Array, " points"], now: Solids, before: Solids
) -> Vector:
    """Where points of the bodies with those labels were in the frame before; the ground
    does not move."""
    of = lambda numbers: numbers[label - 1]
    middle, old = (tuple(of(x.coordinates).T) for x in (now, before))
    x, y, z = (p - m for p, m in zip(point, middle))
    # Turned back about the vertical; a ball about the axis across its way instead, by
    # the angle that its way is long.
    angle = of(before.rotation - now.rotation)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned = (cos * x - sin * y, sin * x + cos * y, z)
    way = tuple(m - o for m, o in zip(middle, old))
    length = jnp.sqrt(way[0] ** 2 + way[1] ** 2)
    scale = 1 / jnp.maximum(length, 1e-9)
    axis = (-way[1] * scale, way[0] * scale, jnp.zeros_like(length))
    back = -length / jnp.asarray(SIZES)[of(now.size)]
    rolled = _rotated((x, y, z), axis, back)
    is_ball, is_ground = of(now.shape) == BALL, label == 0
    x, y, z = (
        jnp.where(is_ground, p, o + jnp.where(is_ball, b, t))
        for p, o, b, t in zip(point, old, rolled, turned)
    )
    return x, y, z


def _rotated(vector: Vector, axis: Vector, angle: Array) -> Vector:
    """About a unit vector, by the formula of Rodrigues."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    upright = dot(axis, vector) * (1 - cos)
    x, y, z = (
        v * cos + c * sin + a * upright
        for v, c, a in zip(vector, cross(axis, vector), axis)
    )
    return x, y, z
