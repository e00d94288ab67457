"""Solids as rays see them, and points as the camera does."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._rays import (
    Bodies,
    camera_axes,
    dot,
    half_pixel,
    nearest,
    through_pixels,
    Vector,
)
from ._kinds import BALL, CUBE, SIZES, Solids, View


def bodies_of(objects: Solids) -> Bodies:
    is_cube = objects.shape == CUBE
    radius = jnp.asarray(SIZES)[objects.size]
    return Bodies(
        objects.coordinates,
        jnp.where(is_cube, math.sqrt(0.5), 1) * radius,
        jnp.stack([jnp.cos(objects.rotation), jnp.sin(objects.rotation)], axis=1),
        is_cube,
        objects.shape == BALL,
        objects.present,
    )


def look(
    objects: Solids, view: View, image_size: tuple[int, int]
) -> tuple[Float[Array, "height width"], Int[Array, "height width"]]:
    """Depth and label of what the ray through the middle of each pixel meets."""
    camera = tuple(view.camera)
    rays = through_pixels(camera, view.field_of_view, image_size)
    depth, label = nearest(bodies_of(objects), camera, rays)
    return depth.reshape(image_size), label.reshape(image_size)


def in_image(point: Vector, view: View, image_size: tuple[int, int]) -> Array:
    """Where points are seen, in pixels from the upper left corner: y, then x."""
    height, width = image_size
    camera = tuple(view.camera)
    right, down, ahead = camera_axes(camera)
    away = tuple(x - o for x, o in zip(point, camera))
    scale = 1 / (dot(away, ahead) * half_pixel(view.field_of_view, image_size))
    y, x = dot(away, down) * scale + height, dot(away, right) * scale + width
    return jnp.stack([y, x]) / 2
