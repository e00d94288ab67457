"""What `eqx_slots.data` paints: scenes of each kind, their truth, and how fast.

    python examples/paint_scenes.py [--number N] [--seed S] [--output DIR]

Writes `scenes.png` into DIR: two rows for each kind, pictures and who owns each pixel,
and `solids.png`: pictures of 128 x 128, their depth and the same objects seen from the
other side. Prints scenes a minute, compilation aside. A minute on two CPU cores.
"""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
from options import check_positive, check_seed, make_folder
from PIL import Image

from eqx_slots import viz
from eqx_slots.data import blocks, solids, sprites, tetrominoes


KINDS = {
    "blocks": blocks.scene,
    "tetrominoes": tetrominoes.scene,
    "sprites, binarized": partial(sprites.scene, kind="binarized"),
    "sprites, colored_on_grayscale": sprites.scene,
    "sprites, colored_on_colored": partial(sprites.scene, kind="colored_on_colored"),
    "solids": partial(solids.scene, image_size=(64, 64)),
}
SIDE = 128  # of a picture on the sheet, in pixels


def framed(picture):
    """The picture as often larger as fits, in the middle of a white square."""
    large = viz.enlarge(picture, SIDE // len(picture))
    room = SIDE - len(large)
    edges = (room // 2, room - room // 2)
    return np.pad(large, (edges, edges, (0, 0)), constant_values=255)


def main(number: int = 8, seed: int = 0, output: Path = Path("runs/scenes")):
    """Paint scenes of each kind."""
    check_positive(number=number)
    check_seed(seed)
    folder, keys = make_folder(output), jr.split(jr.key(seed), number)
    rows = []
    for name, scene in KINDS.items():
        paint = jax.jit(jax.vmap(scene))
        scenes = jax.block_until_ready(paint(keys))
        start = time.perf_counter()
        jax.block_until_ready(paint(jr.split(jr.key(seed + 1), number)))
        speed = 60 * number / (time.perf_counter() - start)
        print(f"{name:30} {speed:9,.0f} scenes a minute")
        rows += [
            [framed(viz.picture(image)) for image in scenes.image],
            [framed(viz.segmentation(truth)) for truth in scenes.segmentation],
        ]
    Image.fromarray(viz.grid(rows)).save(folder / "scenes.png")

    large = jax.jit(jax.vmap(solids.scene))(keys[:4])
    render = jax.jit(jax.vmap(partial(solids.render, image_size=(128, 128))))
    camera = large.view.camera * jnp.array([[-1.0, -1.0, 1.0]])
    behind = render(large.objects, large.view._replace(camera=camera))
    nearness = 1.6 - large.depth / 14
    rows = [
        [viz.picture(image) for image in large.image],
        [viz.picture(near[None]) for near in nearness],
        [viz.picture(image) for image in behind.image],
    ]
    Image.fromarray(viz.grid(rows)).save(folder / "solids.png")
    print(f"Look at {folder / 'scenes.png'} and {folder / 'solids.png'}")


if __name__ == "__main__":
    tyro.cli(main)
