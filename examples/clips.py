"""What `video.py` paints: clips of things that move, and hints of where they are."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from options import (
    check_batch,
    check_objects,
    check_positive,
    check_weights,
    refuse,
    Run,
)

from eqx_slots import data
from eqx_slots.data import blocks, solids, sprites


PAINTERS = {"blocks": blocks.video, "sprites": sprites.video, "solids": solids.video}
SIDES = {"blocks": 32, "sprites": 64, "solids": 64}
OBJECTS = {"blocks": (2, 4), "sprites": (2, 5), "solids": (3, 6)}
DEMANDS = {  # least scores of a seed that counts as a success
    ("blocks", "none"): {"fg_ari": 0.92, "ari": 0.95, "soft_ari": 0.92},
    ("blocks", "boxes"): {"fg_ari": 0.95},
    ("sprites", "none"): {"fg_ari": 0.80},
    ("sprites", "boxes"): {"fg_ari": 0.88},
    ("solids", "none"): {"fg_ari": 0.75},
    ("solids", "boxes"): {"fg_ari": 0.85},
}
STEPS = {("blocks", "none"): 3400}  # 6,000 of the others
RATE = {"none": 6e-3, "boxes": 3e-3}
EARLY = 0.4  # of the steps are of clips of half the length
SPARE = 3  # slots beyond one for each object, where there are no hints
LONG, AHEAD = 24, 5  # frames of a clip to score, and how far ahead is looked


class Clips(NamedTuple):
    """Clips, with what is known of the first frame where there are hints."""

    images: jax.Array
    segmentation: jax.Array | None
    boxes: jax.Array | None
    """Of the objects, in the first frame."""
    there: jax.Array | None
    """The background, and which objects are in the first frame."""
    sparsity: jax.Array
    """What masks that are shared out cost, a number for each clip."""
    early_gradient: jax.Array
    """How much of the gradient flows on to the frames before, for each clip."""


@dataclass
class Arguments(Run):
    """Train a slot model on painted videos."""

    scenes: Literal["blocks", "sprites", "solids"] = "blocks"
    hints: Literal["none", "boxes"] = "none"
    """Whether slots begin at the boxes of the objects in the first frame."""
    objects: tuple[int, int] | None = None
    """Fewest and most; if not said: 2 and 4 blocks, 2 and 5 sprites, 3 and 6 solids."""
    occlusion: bool = False
    """Whether in every clip a block vanishes behind another, and comes back."""
    num_frames: int = 6
    """Of a clip to train on, at first half of them; 24 are scored."""
    batch_size: int = 8
    """Clips in a batch."""
    pool: int = 2000
    """So many clips of solids are painted, once."""
    rate: float | None = None
    """Of Muon, at most; Adam's is a third of it. If not said: 6e-3, with hints 3e-3."""
    steps: int | None = None
    """If not said: 3,400 of blocks without hints, else 6,000."""
    sparsity: float = 1e-2
    """Weight of masks that are shared out."""
    ahead: float = 0.5
    """Weight of the error of frames that were predicted."""
    output: Path = Path("runs/video")

    def __post_init__(self):
        if self.steps is None:
            self.steps = STEPS.get((self.scenes, self.hints), 6000)
        self.rate = RATE[self.hints] if self.rate is None else self.rate
        super().__post_init__()
        self.objects = OBJECTS[self.scenes] if self.objects is None else self.objects
        check_objects(self.objects, len(blocks.COLOURS))
        check_positive(pool=self.pool, rate=self.rate)
        check_batch(self.batch_size, self.devices)
        check_weights(sparsity=self.sparsity, ahead=self.ahead)
        if not 2 <= self.num_frames <= LONG:
            refuse(f"--num-frames must lie from 2 to {LONG}, got {self.num_frames}.")
        if self.pool < 2 * self.batch_size:
            refuse(f"--pool must be twice --batch-size at least, got {self.pool}.")
        if self.occlusion and self.scenes != "blocks":
            refuse(f"--occlusion is no option of --scenes {self.scenes}.")
        try:
            jax.eval_shape(self.painter(self.num_frames), jr.key(0))
        except ValueError as error:
            refuse(f"Such clips cannot be painted: {error}")

    @property
    def most(self):
        return (self.objects or OBJECTS[self.scenes])[1]

    @property
    def built_with(self):
        """The sizes of the model: with hints, one slot for each object there can be."""
        spare = SPARE if self.hints == "none" else 1
        sizes = {"num_slots": self.most + spare, "image_size": SIDES[self.scenes]}
        return sizes | {"hints": self.hints}

    def painter(self, num_frames):
        """Paints a clip from a key."""
        size = (SIDES[self.scenes],) * 2
        options = {"num_objects": self.objects, "image_size": size}
        if self.scenes == "blocks":
            options |= {"occlusion": self.occlusion}
        return partial(PAINTERS[self.scenes], num_frames=num_frames, **options)


def for_each(clips, *numbers):
    """Numbers of a step, repeated for each clip."""
    return [jnp.full(len(clips), number, float) for number in numbers]


def as_seen(videos, sparsity, early_gradient):
    """Clips in the model's range, [-1, 1], and what is known of their first frames."""
    there = videos.objects.present[:, 0]
    background = jnp.ones_like(there[:, :1])
    return Clips(
        2 * videos.images - 1,
        videos.segmentation,
        videos.boxes[:, 0],
        jnp.concatenate([background, there], axis=1),
        *for_each(there, sparsity, early_gradient),
    )


def paint(key, number, num_frames, arguments):
    """Clips from a key, to be scored."""
    videos = jax.vmap(arguments.painter(num_frames))(jr.split(key, number))
    return as_seen(videos, 0, 1)


def clips_at(key, arguments):
    """Two batches by the number of the step: painted for it, or where that takes long,
    taken out of a pool. In [0, 1]."""
    one, size = arguments.painter(arguments.num_frames), 2 * arguments.batch_size
    if arguments.scenes == "solids":
        return data.pool(one, key, arguments.pool, batch_size=size)
    return lambda step: jax.vmap(one)(jr.split(jr.fold_in(key, step), size))


def short(clips):
    """The first half of each clip, of two frames at least: more of the world in as many
    frames."""
    half = max(2, clips.images.shape[1] // 2)
    cut = {name: getattr(clips, name)[:, :half] for name in ("images", "segmentation")}
    return clips._replace(**cut)


def whole(clips):
    """Half of the clips, with all of their frames."""
    half = len(clips.images) // 2
    return jax.tree.map(lambda x: x[:half], clips)


def frames_of(clips):
    """All frames, one beside the other."""
    return rearrange(clips.images, "clips frames c h w -> (clips frames) c h w")
