"""Rays and the solids that they meet: where, under what angle, and in whose shadow.

A vector is three arrays, x, y and z, so that all of a ray's arithmetic is one loop over
the rays: stacked into one array it took three times as long on CPU.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


FAR = 1e6  # farther than anything that is met
Vector = tuple[Array, Array, Array]
"""Three arrays of the same shape, one number a ray each."""


class Bodies(NamedTuple):
    """Solids as rays see them: each a unit ball, cube or cylinder, grown and turned.

    All arrays have one axis of objects in front. What is absent is met by no ray.
    """

    middle: Float[Array, "*objects 3"]
    radius: Float[Array, "*objects"]  # half the side of a cube
    turn: Float[Array, "*objects 2"]  # cosine and sine
    is_cube: Bool[Array, "*objects"]
    is_ball: Bool[Array, "*objects"]
    present: Bool[Array, "*objects"]


def dot(a: Vector, b: Vector) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def along(origin: Vector, distance: Array | float, direction: Vector) -> Vector:
    """The point at that distance on a ray."""
    x, y, z = (o + distance * d for o, d in zip(origin, direction))
    return x, y, z


def unit(vector: Vector) -> Vector:
    """The vector with length one."""
    scale = jax.lax.rsqrt(dot(vector, vector) + 1e-12)
    return vector[0] * scale, vector[1] * scale, vector[2] * scale


def cross(a: Vector, b: Vector) -> Vector:
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


def camera_axes(camera: Vector) -> tuple[Vector, Vector, Vector]:
    """To the right and downwards in the image, and ahead, to the middle of the ground.
    None is defined for a camera straight above it."""
    x, y, z = camera
    ahead = unit((-x, -y, -z))
    right = unit((ahead[1], -ahead[0], jnp.zeros_like(x)))
    return right, cross(ahead, right), ahead


def half_pixel(degrees: Array, image_size: tuple[int, int]) -> Array:
    """Half a pixel at a distance of one, where the shorter side spans `degrees`."""
    return jnp.tan(jnp.radians(degrees) / 2) / min(image_size)


def through_pixels(
    camera: Vector, degrees: Array, image_size: tuple[int, int], sub: int = 1
) -> Vector:
    """Directions of `sub` x `sub` rays through each pixel, row by row; one step along
    the camera's axis."""
    half = half_pixel(degrees, image_size)
    at = lambda size: (2 * jnp.arange(sub * size, dtype=float) + 1) / sub - size
    down, right = jnp.meshgrid(*(half * at(size) for size in image_size), indexing="ij")
    down, right = down.ravel(), right.ravel()
    x, y, z = (a + right * r + down * d for r, d, a in zip(*camera_axes(camera)))
    return x, y, z


def nearest(
    bodies: Bodies, origin: Vector, direction: Vector
) -> tuple[Float[Array, " rays"], Int[Array, " rays"]]:
    """How far along each ray something is met, and what: 0 for the ground at z = 0 or
    nothing, `1 + i` for body `i`. Nothing is met at a distance of 1e6."""
    ground = jnp.clip(-origin[2] / jnp.minimum(direction[2], -1e-9), 0, FAR)

    def meet(
        met: tuple[Array, Array], numbered: tuple[Array, Bodies]
    ) -> tuple[tuple[Array, Array], None]:
        distance, label = met
        number, body = numbered
        start, end = _inside(body, origin, direction)
        is_nearer = (start < end) & (start > 0) & (start < distance)
        return (
            jnp.where(is_nearer, start, distance),
            jnp.where(is_nearer, number, label),
        ), None

    numbers = 1 + jnp.arange(len(bodies.radius), dtype=jnp.int32)
    nothing = jnp.zeros(ground.shape, jnp.int32)
    met, _ = jax.lax.scan(meet, (ground, nothing), (numbers, bodies))
    return met


def are_lit(
    bodies: Bodies, point: Vector, towards: list[Vector]
) -> list[Bool[Array, " rays"]]:
    """Whether nothing lies between a point and each lamp at `point + towards`."""

    def shade(lit: list[Array], body: Bodies) -> tuple[list[Array], None]:
        meetings = [_inside(body, point, lamp) for lamp in towards]
        blocked = [(start < end) & (end > 0) & (start < 1) for start, end in meetings]
        return [was & ~now for was, now in zip(lit, blocked)], None

    lit, _ = jax.lax.scan(
        shade, [jnp.ones(point[0].shape, bool)] * len(towards), bodies
    )
    return lit


def normal(bodies: Bodies, label: Int[Array, " rays"], point: Vector) -> Vector:
    """What stands upright on the surface at a point of it: of the ground, or a body."""
    body = Bodies(*(x[label - 1] for x in bodies))
    x, y, z = local = _from_middle(body, point)
    # The side that a point of a cube lies on is the axis along which it is farthest
    # out; a point of a cylinder lies on its top, or on the round of it.
    size = [jnp.abs(part) for part in local]
    out = jnp.maximum(jnp.maximum(size[0], size[1]), size[2])
    side = [jnp.where(far == out, jnp.sign(part), 0) for far, part in zip(size, local)]
    is_top = ~body.is_ball & (z**2 > x**2 + y**2)
    round_ = [
        jnp.where(is_top, 0, x),
        jnp.where(is_top, 0, y),
        jnp.where(is_top, jnp.sign(z), jnp.where(body.is_ball, z, 0)),
    ]
    pick = [jnp.where(body.is_cube, a, b) for a, b in zip(side, round_)]
    x, y, z = unit((pick[0], pick[1], pick[2]))
    cos, sin = body.turn[..., 0], body.turn[..., 1]
    is_ground = label == 0
    return (
        jnp.where(is_ground, 0, cos * x - sin * y),
        jnp.where(is_ground, 0, sin * x + cos * y),
        jnp.where(is_ground, 1, z),
    )


def _turned(body: Bodies, vector: Vector) -> Vector:
    """As the body sees it, which is turned about the vertical."""
    cos, sin = body.turn[..., 0], body.turn[..., 1]
    x, y, z = vector
    return cos * x + sin * y, cos * y - sin * x, z


def _from_middle(body: Bodies, point: Vector) -> Vector:
    x, y, z = (part - body.middle[..., axis] for axis, part in enumerate(point))
    return _turned(body, (x, y, z))


def _inside(body: Bodies, origin: Vector, direction: Vector) -> tuple[Array, Array]:
    """Where each ray enters one body and leaves it, in lengths of its direction.

    A cube is three slabs, a ball one round thing, a cylinder a round thing and a slab.
    A ray that misses enters after it has left.
    """
    shrink = 1 / body.radius
    o = [shrink * x for x in _from_middle(body, origin)]
    d = [shrink * x for x in _turned(body, direction)]
    d = [jnp.where(jnp.abs(x) < 1e-9, 1e-9, x) for x in d]
    # Round: o² + 2 t (o d) + t² d² = 1, in a cylinder without the vertical part.
    upright = body.is_ball.astype(float)
    inner = lambda a, b: a[0] * b[0] + a[1] * b[1] + upright * (a[2] * b[2])
    od, per_dd = inner(o, d), 1 / inner(d, d)
    inside_root = (od * od) - inner(d, d) * (inner(o, o) - 1)
    root = jnp.sqrt(jnp.maximum(inside_root, 0))
    start = jnp.where(inside_root < 0, FAR, per_dd * (-od - root))
    start = jnp.where(body.is_cube, -FAR, start)
    end = jnp.where(body.is_cube, FAR, per_dd * (root - od))
    for axis, has_slab in enumerate((body.is_cube, body.is_cube, ~body.is_ball)):
        per_d = 1 / d[axis]
        middle, half = -o[axis] * per_d, jnp.abs(per_d)
        start = jnp.where(has_slab, jnp.maximum(start, middle - half), start)
        end = jnp.where(has_slab, jnp.minimum(end, middle + half), end)
    return start, jnp.where(body.present, end, -FAR)
