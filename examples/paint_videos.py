"""What moves in `eqx_slots.data`: clips of each kind, their truth, and how fast.

    python examples/paint_videos.py [--num-frames N] [--seed S] [--output DIR]

Writes `videos.gif` into DIR: a clip of each kind, below it who owns each pixel, and
below that the flow in SAVi's colours. Prints milliseconds a frame, compilation aside.
A minute on two CPU cores.
"""

import time
from functools import partial
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import tyro
from options import check_seed, make_folder, refuse
from PIL import Image

from eqx_slots import data, viz
from eqx_slots.data import blocks, solids, sprites


KINDS = {
    "blocks, occlusion": partial(blocks.video, occlusion=True),
    "blocks that leave": partial(blocks.video, edges="leave", background="gradient"),
    "sprites": sprites.video,
    "solids": partial(solids.video, image_size=(64, 64), orbit=4.0),
}
SIDE = 128  # of a picture, in pixels
FEWEST = 4  # frames, for blocks that pass behind each other


def shown(video):
    """Of each frame the picture, the truth and the flow, one below the other."""
    factor = SIDE // video.images.shape[-1]
    for image, truth, flow in zip(video.images, video.segmentation, video.flow):
        pictures = (
            viz.picture(image),
            viz.segmentation(truth),
            viz.picture(data.flow_to_rgb(flow)),
        )
        yield [viz.enlarge(picture, factor) for picture in pictures]


def main(num_frames: int = 16, seed: int = 0, output: Path = Path("runs/videos")):
    """Paint a clip of each kind."""
    if num_frames < FEWEST:
        refuse(f"--num-frames must be {FEWEST} or more, got {num_frames}.")
    check_seed(seed)
    folder, columns = make_folder(output), []
    for index, (name, video) in enumerate(KINDS.items()):
        paint = jax.jit(partial(video, num_frames=num_frames))
        key = jr.fold_in(jr.key(seed), index)
        columns.append(list(shown(paint(key))))
        start = time.perf_counter()
        jax.block_until_ready(paint(jr.fold_in(key, 1)))
        each = 1000 * (time.perf_counter() - start) / num_frames
        print(f"{name:20} {each:8.2f} ms a frame")
    frames = [viz.grid(list(zip(*pictures))) for pictures in zip(*columns)]
    # One palette for all frames, or colours would flicker; dithered, the file doubles.
    palette = Image.fromarray(np.concatenate(frames)).quantize(256)
    first, *others = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    first.save(
        folder / "videos.gif", save_all=True, append_images=others, duration=120, loop=0
    )
    print(f"Look at {folder / 'videos.gif'}")


if __name__ == "__main__":
    tyro.cli(main)
