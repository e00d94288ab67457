"""What light a solid throws back: three lamps with soft shadows, matt and metal."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ._rays import along, are_lit, Bodies, cross, dot, nearest, normal, unit, Vector


_POWER = (66.0, 16.0, 26.0)
_SIZE = (0.8, 1.0, 0.6)  # radius of the disc that shines
_GROUND, _HORIZON, _SKY = 0.42, 100.0, 0.3


class Paint(NamedTuple):
    """Of each body: what light it throws back, linear, and whether it mirrors."""

    colour: Float[Array, "objects 3"]
    is_metal: Bool[Array, " objects"]


def _grain() -> np.ndarray:
    """Which point of its disc a lamp shows to a ray: the grain of soft shadows, the
    same in all pictures. The rays of a pixel see four quarters of it."""
    quarter = np.stack(np.meshgrid([0.0, 0.5], [0.0, 0.5], indexing="ij"))
    within = np.random.default_rng(0).random((2, 64, 64)) / 2
    out, around = np.tile(quarter, (1, 32, 32)) + within
    angle = 2 * math.pi * around
    return (np.sqrt(out) * np.stack([np.sin(angle), np.cos(angle)])).astype(np.float32)


_GRAIN = _grain()


def light(
    bodies: Bodies,
    paint: Paint,
    lamps: tuple[Vector, ...],
    camera: Vector,
    directions: Vector,
    rows: int,
) -> Float[Array, "3 rays"]:
    """The light that comes back along each ray, linear, 1 as the brightest.

    The rays stand in `rows` rows. A surface has Lambert's light of each lamp that it
    sees, a gloss where it throws the lamp into the camera, and metal throws back half
    of what it mirrors, which is painted as if all lamps reached it.
    """
    distance, label = nearest(bodies, camera, directions)
    point = along(camera, distance, directions)
    upright = normal(bodies, label, point)
    point = along(point, 1e-3, upright)
    seen = unit(directions)
    mirrored = along(seen, -2 * dot(seen, upright), upright)
    mirror = _mirrored(bodies, paint, lamps, point, mirrored)

    shown = zip(lamps, _SIZE)
    towards = [along(_on_disc(*lamp, rows, len(label)), -1.0, point) for lamp in shown]
    colour, is_metal = _met(paint, label)
    matt, gloss = jnp.zeros(len(label)), jnp.zeros(len(label))
    for lamp, power, lit in zip(lamps, _POWER, are_lit(bodies, point, towards)):
        falls, to_lamp = _falling(lamp, power, point, upright)
        straight = jnp.maximum(dot(to_lamp, mirrored), 0)
        sharp = jnp.where(is_metal, straight**64, 0.18 * straight**12)
        matt += jnp.where(lit, falls, 0)
        gloss += jnp.where(lit & (falls > 0), 0.035 * power * sharp, 0)
    matt, gloss = matt[None], jnp.where(label == 0, 0, gloss)[None]
    metal = colour * (0.08 + 0.4 * matt) + 0.6 * mirror * (0.12 + 0.88 * colour)
    return jnp.where(is_metal[None], metal, colour * (0.22 + matt)) + gloss


def _mirrored(
    bodies: Bodies,
    paint: Paint,
    lamps: tuple[Vector, ...],
    point: Vector,
    direction: Vector,
) -> Float[Array, "3 rays"]:
    far, label = nearest(bodies, point, direction)
    there = along(point, far, direction)
    upright = normal(bodies, label, there)
    matt = jnp.full(len(label), 0.25)
    for lamp in zip(lamps, _POWER):
        matt += _falling(*lamp, there, upright)[0]
    colour, _ = _met(paint, label)
    return jnp.where((far > _HORIZON)[None], _SKY, colour * matt[None])


def _met(
    paint: Paint, label: Int[Array, " rays"]
) -> tuple[Float[Array, "3 rays"], Bool[Array, " rays"]]:
    """The paint of what is met, the ground first."""
    colours = jnp.concatenate([jnp.full((1, 3), _GROUND), paint.colour])
    metal = jnp.concatenate([jnp.zeros(1, bool), paint.is_metal])
    return colours.T[:, label], metal[label]


def _falling(
    lamp: Vector, power: float, point: Vector, upright: Vector
) -> tuple[Array, Vector]:
    """The light of a lamp that a surface turned that way gets, and where it is."""
    towards = along(lamp, -1.0, point)
    nearness = 1 / (dot(towards, towards) + 30)
    towards = unit(towards)
    return power * nearness * jnp.maximum(dot(towards, upright), 0), towards


def _on_disc(lamp: Vector, size: float, rows: int, rays: int) -> Vector:
    """A point of a lamp's disc, which faces the scene, for each ray."""
    side, columns = _GRAIN.shape[-1], rays // rows
    tiles = jnp.tile(size * _GRAIN, (1, -(-rows // side), -(-columns // side)))
    aside, above = tiles[:, :rows, :columns].reshape(2, rays)
    right = unit((lamp[1], -lamp[0], jnp.zeros_like(lamp[0])))
    return along(along(lamp, aside, right), above, unit(cross(right, lamp)))
