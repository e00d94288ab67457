"""How painted things move: straight on, back from the edges, one behind another.

Those of blocks are whole 64ths of a pixel, and sums and products of a few of them exact
in float32: what is covered is so in every way that a program may be compiled.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray


_GRID = 64
LONGEST = 4  # frames for which one is hidden
MARGIN = 3  # pixels that a hider is longer, and the image longer than that


def on_grid(numbers: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.trunc(_GRID * numbers) / _GRID


def velocities(
    speed: tuple[float, float], number: int, *, key: PRNGKeyArray
) -> Float[Array, "objects 2"]:
    """Length and direction uniform."""
    length_key, angle_key = jr.split(key)
    slowest, fastest = speed
    length = jr.uniform(length_key, (number,), minval=slowest, maxval=fastest)
    angle = jr.uniform(angle_key, (number,), maxval=2 * math.pi)
    return length[:, None] * jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=1)


def spins(
    spin: tuple[float, float], number: int, *, key: PRNGKeyArray
) -> Float[Array, " objects"]:
    """Angles a frame, as often to the left as to the right."""
    draw = jr.uniform(key, (number,), minval=-1)
    slowest, fastest = spin
    return jnp.sign(draw) * (slowest + (fastest - slowest) * jnp.abs(draw))


class Moving(NamedTuple):
    """Things that are at their place at their moment, and go straight on."""

    size: Float[Array, "objects 2"]
    place: Float[Array, "objects 2"]  # of the upper left corner
    velocity: Float[Array, "objects 2"]
    moment: Float[Array, " objects"]  # in frames


def moments(
    edges: str, number: int, num_frames: int, *, key: PRNGKeyArray
) -> Float[Array, " objects"]:
    """The first frame, or one of their own for what comes and goes."""
    if edges == "bounce":
        return jnp.zeros(number)
    return jr.randint(key, (number,), 0, num_frames).astype(float)


def paths(
    moving: Moving, image_size: tuple[int, int], num_frames: int, edges: str
) -> Float[Array, "frames objects 2"]:
    """Places in each frame; what bounces sees two mirrors along each axis."""
    time = jnp.arange(num_frames, dtype=float)[:, None] - moving.moment[None]
    path = moving.place[None] + moving.velocity[None] * time[..., None]
    if edges == "leave":
        return path
    room = jnp.array([image_size], float) - moving.size
    room = jnp.broadcast_to(room[None], path.shape)
    lap = jnp.mod(path, jnp.where(room > 0, 2 * room, 1))
    return jnp.where(room > 0, room - jnp.abs(room - lap), 0)


def crossing(
    num_frames: int,
    image_size: tuple[int, int],
    block_size: tuple[int, int],
    speed: tuple[float, float],
    *,
    key: PRNGKeyArray,
) -> Moving:
    """A block that is wholly behind another for two to four frames, and a pixel of it
    at least is seen in the frame before and in the frame after.

    With `slack` pixels that the hider is longer along the way, it is hidden for n
    frames if it passes at v pixels a frame with (n - 1) v <= slack, and seen by a pixel
    before and after if (n + 1) v >= slack + 2; from a slack of 3 on both can be.
    """
    size_key, time_key, way_key, speed_key, place_key = jr.split(key, 5)
    shortest, longest = block_size
    behind_key, front_key = jr.split(size_key)
    behind = jr.randint(behind_key, (2,), shortest, longest - MARGIN + 1)
    front = jr.randint(front_key, (2,), behind + MARGIN, longest + 1)
    slack = (front - behind).astype(float)

    length_key, start_key = jr.split(time_key)
    length = jr.randint(length_key, (), 2, min(LONGEST, num_frames - 2) + 1)
    start = jr.randint(start_key, (), 1, num_frames - length)
    frames = length.astype(float)
    moment = start.astype(float) + (frames - 1) / 2
    reach = (frames + 1) / 2  # frames from the middle to when it is seen

    way = jax.nn.one_hot(jr.randint(way_key, (), 0, 4), 4).reshape(2, 2)
    fast = jnp.ceil(_GRID * (slack + 2) / (frames + 1)) / _GRID
    passing = fast * (way[0] - way[1])
    # Neither comes to an edge in these frames: the hider keeps so far away.
    out = jnp.maximum(jnp.abs(passing) * reach - slack / 2, 0)
    room = jnp.array(image_size, float) - front.astype(float)
    most = on_grid((room / 2 - out) / reach)
    velocity = jnp.clip(on_grid(velocities(speed, 1, key=speed_key)[0]), -most, most)
    margin = jnp.abs(velocity) * reach + out
    place = margin + on_grid(jr.uniform(place_key, (2,)) * (room - 2 * margin))
    return Moving(
        jnp.stack([behind, front]).astype(float),
        jnp.stack([place + slack / 2, place]),
        jnp.stack([velocity + passing, velocity]),
        jnp.stack([moment, moment]),
    )


def check_range(**ranges: tuple[float, float]) -> None:
    for name, (slowest, fastest) in ranges.items():
        if not 0 <= slowest <= fastest < math.inf:
            raise ValueError(
                f"`{name}` must be (slowest, fastest) with 0 <= slowest <= fastest, got"
                f" {(slowest, fastest)}."
            )


def check_edges(edges: str) -> None:
    if edges not in ("bounce", "leave"):
        raise ValueError(f'`edges` must be one of "bounce", "leave", got {edges!r}.')


def check_crossing(
    num_frames: int,
    image_size: tuple[int, int],
    block_size: tuple[int, int],
    fewest: int,
) -> None:
    """Refuse what no block can pass behind another in."""
    shortest, longest = block_size
    if (
        num_frames < LONGEST
        or fewest < 2
        or longest < shortest + MARGIN
        or min(image_size) < longest + MARGIN
    ):
        raise ValueError(
            f"`occlusion=True` needs {LONGEST} frames and 2 blocks at least, a longest"
            f" block that is {MARGIN} pixels longer than the shortest, and an image"
            f" {MARGIN} pixels longer than that, got {num_frames} frames, {fewest} or"
            f" more blocks of {block_size} and an image of {image_size}."
        )
