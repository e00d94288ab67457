"""What `autoencoder.py` paints: the options of its scenes, and batches of them."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.random as jr
from options import check_objects, refuse, Run

from eqx_slots.data import blocks


PALETTES = {
    "bright": tuple(blocks.COLOURS.values()),
    "faint": tuple(
        tuple(0.4 + 0.2 * x for x in colour) for colour in blocks.COLOURS.values()
    ),
    "one": (blocks.COLOURS["red"],),
    "grays": blocks.GRAYS,
}


@dataclass
class Scenes(Run):
    """A run, and what is painted for it."""

    background: Literal["gray", "black", "gradient", "stripes"] = "gray"
    objects: tuple[int, int] = (2, 4)
    """Fewest and most blocks in a scene."""
    image_size: Literal[32, 64] = 32
    """Side of the pictures."""
    block_size: tuple[int, int] | None = None
    """Shortest and longest side of a block; if not said: 5 and 10, twice that at 64."""
    max_overlap: float = 0.25
    """How much of a block others may cover, from 0 to 1."""
    gap: int = 0
    """Pixels between blocks."""
    palette: Literal["bright", "faint", "one", "grays"] = "bright"
    """Six colours, six within 0.1 of gray, red alone, or grays in one channel."""
    repeat_colours: bool = False
    """Whether blocks of a scene may have the same colour; of `one` they do."""
    noise: float = 0.02
    """Standard deviation; the range of the picture is 1."""
    noise_on: Literal["background", "everything"] = "background"

    def __post_init__(self):
        super().__post_init__()
        if self.block_size is None:
            scale = self.image_size // 32
            self.block_size = (5 * scale, 10 * scale)
        self.repeat_colours = self.repeat_colours or self.palette == "one"
        if not self.repeat_colours:
            check_objects(self.objects)
        try:
            jax.eval_shape(partial(blocks.scene, **self.of_a_scene), jr.key(0))
        except ValueError as error:
            refuse(f"Such scenes cannot be painted: {error}")

    @property
    def channels(self):
        return len(PALETTES[self.palette][0])

    @property
    def of_a_scene(self):
        """The options of `blocks.scene`."""
        same = "background", "block_size", "max_overlap", "gap", "noise", "noise_on"
        return {name: getattr(self, name) for name in (*same, "repeat_colours")} | {
            "image_size": (self.image_size, self.image_size),
            "num_objects": self.objects,
            "colours": PALETTES[self.palette],
        }


def paint(key, number, arguments):
    """A batch of scenes in the model's range, painted anew from the key each time."""
    one = partial(blocks.scene, **arguments.of_a_scene)
    scenes, black = jax.vmap(one)(jr.split(key, number)), arguments.black
    return scenes._replace(image=black + (1 - black) * scenes.image)
