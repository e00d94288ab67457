"""What `autoencoder.py` paints: the options of its scenes, and batches of them."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import jax.random as jr
from options import check_objects, check_positive, refuse, Run

from eqx_slots import data
from eqx_slots.data import blocks, solids, sprites, tetrominoes


PALETTES = {
    "bright": tuple(blocks.COLOURS.values()),
    "faint": tuple(
        tuple(0.4 + 0.2 * x for x in colour) for colour in blocks.COLOURS.values()
    ),
    "one": (blocks.COLOURS["red"],),
    "grays": blocks.GRAYS,
}
PAINTERS = {
    "blocks": blocks.scene,
    "tetrominoes": tetrominoes.scene,
    "sprites": sprites.scene,
    "solids": solids.scene,
}
SIDES = {"blocks": 32, "tetrominoes": 35, "sprites": 64, "solids": 64}
RECORDS = {  # what of `data.records` is in the manner of which scenes
    "tetrominoes": "tetrominoes",
    "multi_dsprites": "sprites",
    "objects_room": "solids",
    "clevr_with_masks": "solids",
}
OBJECTS = {"blocks": (2, 4), "tetrominoes": (3, 3), "solids": (3, 6)}
ONLY = {  # options that not all scenes have
    "blocks": (
        *("background", "block_size", "max_overlap", "gap", "palette"),
        *("repeat_colours", "noise", "noise_on"),
    ),
    "tetrominoes": ("gap",),
    "sprites": ("kind",),
    "solids": ("pool",),
}


@dataclass
class Scenes(Run):
    """A run, and what is painted for it."""

    scenes: Literal["blocks", "tetrominoes", "sprites", "solids"] = "blocks"
    """What is painted; the last three in the manner of Tetrominoes, Multi-dSprites and
    CLEVR."""
    objects: tuple[int, int] | None = None
    """Fewest and most objects; if not said: 2 and 4 blocks, 3 pieces, as many sprites
    as their kind has, 3 and 6 solids."""
    image_size: int | None = None
    """Side of the pictures; if not said: 32, 35, 64 and 64, and 128 for
    `--preset clevr`."""
    background: Literal["gray", "black", "gradient", "stripes"] = "gray"
    """Of blocks, as all that follows to `noise_on`, but for `gap`."""
    block_size: tuple[int, int] | None = None
    """Shortest and longest side of a block; if not said: 5 and 10, twice that at 64."""
    max_overlap: float = 0.25
    """How much of a block others may cover, from 0 to 1."""
    gap: int = 0
    """Pixels between blocks, or between the pieces of tetrominoes."""
    palette: Literal["bright", "faint", "one", "grays"] = "bright"
    """Six colours, six within 0.1 of gray, red alone, or grays in one channel."""
    repeat_colours: bool = False
    """Whether blocks of a scene may have the same colour; of `one` they do."""
    noise: float = 0.02
    """Standard deviation; the range of the picture is 1."""
    noise_on: Literal["background", "everything"] = "background"
    kind: Literal["binarized", "colored_on_grayscale", "colored_on_colored"] = (
        "colored_on_grayscale"
    )
    """Of sprites."""
    pool: int = 10_000
    """So many scenes of solids are painted, once."""
    records: tuple[str, Path] | None = None
    """KIND and FILE: scenes of a published file instead of painted ones, of
    `tetrominoes`, `multi_dsprites`, `objects_room` or `clevr_with_masks`."""

    def __post_init__(self):
        super().__post_init__()
        self._check_others()
        if self.records is not None:
            kind, file = self.records
            if kind not in RECORDS:
                refuse(f"--records must begin with one of {', '.join(RECORDS)}.")
            if not file.is_file():
                refuse(f"--records: there is no file {file}.")
            if RECORDS[kind] != self.scenes:
                refuse(f"--records {kind} are for --scenes {RECORDS[kind]}.")
            if kind == "objects_room":
                self.objects = (1, 3)
        check_positive(pool=self.pool)
        usual = OBJECTS.get(self.scenes, sprites.NUM_OBJECTS[self.kind])
        self.objects = usual if self.objects is None else self.objects
        if self.image_size is None:
            self.image_size = SIDES[self.scenes]
        if self.image_size < 8:
            refuse(f"--image-size must be 8 or more, got {self.image_size}.")
        if self.scenes == "blocks":
            scale = max(1, self.image_size // 32)
            self.block_size = self.block_size or (5 * scale, 10 * scale)
            self.repeat_colours = self.repeat_colours or self.palette == "one"
            if not self.repeat_colours:
                check_objects(self.objects)
        try:
            jax.eval_shape(self.painter, jr.key(0))
        except ValueError as error:
            refuse(f"Such scenes cannot be painted: {error}")

    def _check_others(self):
        """Refuse options that these scenes do not have."""
        usual = {one.name: one.default for one in fields(Scenes)}
        for name in sorted({name for names in ONLY.values() for name in names}):
            if name not in ONLY[self.scenes] and getattr(self, name) != usual[name]:
                option = name.replace("_", "-")
                refuse(f"--{option} is no option of --scenes {self.scenes}.")

    @property
    def most(self):
        """So many objects there are at most."""
        return 0 if self.objects is None else self.objects[1]

    @property
    def channels(self):
        if self.scenes == "blocks":
            return len(PALETTES[self.palette][0])
        return 1 if (self.scenes, self.kind) == ("sprites", "binarized") else 3

    @property
    def painter(self):
        """Paints one scene from a key."""
        options = {"num_objects": self.objects, "image_size": (self.image_size,) * 2}
        if self.scenes == "blocks":
            same = "background", "block_size", "max_overlap", "gap", "noise", "noise_on"
            options |= {name: getattr(self, name) for name in same}
            options |= {"repeat_colours": self.repeat_colours}
            options |= {"colours": PALETTES[self.palette]}
        elif self.scenes == "tetrominoes":
            options |= {"gap": self.gap}
        elif self.scenes == "sprites":
            options |= {"kind": self.kind}
        return partial(PAINTERS[self.scenes], **options)


def paint(key, number, arguments):
    """A batch of scenes in the model's range, painted anew from the key each time."""
    scenes = jax.vmap(arguments.painter)(jr.split(key, number))
    return in_range(scenes, arguments.black)


def in_range(scenes, black):
    return scenes._replace(image=black + (1 - black) * scenes.image)


def read(arguments, held_out):
    """The scenes of a file but the last, and a batch of these, in the model's range."""
    kind, file = arguments.records
    options = {"progress": lambda count: print(f"read {count} scenes", end="\r")}
    if kind == "multi_dsprites":
        options |= {"kind": arguments.kind}
    if kind == "clevr_with_masks":
        options |= {"max_objects": arguments.most}
        options |= {"image_size": (arguments.image_size,) * 2}
    source = getattr(data.records, kind)(file, **options)
    few = f"--records: {file} has {len(source)} scenes, {held_out} of them to score:"
    if len(source) - held_out < arguments.batch_size:
        refuse(f"{few} too few for a batch of {arguments.batch_size}.")
    if source.images.shape[1] != arguments.image_size:
        refuse(f"--image-size {source.images.shape[1]} alone is in {file}.")
    batch = jax.tree.map(lambda *x: jnp.stack(x), *source[-held_out:])
    return source[:-held_out], in_range(batch, arguments.black)


def scenes_at(key, size, arguments):
    """Batches by the number of the step: painted for it, or where that takes long,
    taken out of a pool. In [0, 1]."""
    one = arguments.painter
    if arguments.scenes == "solids":
        return data.pool(one, key, arguments.pool, batch_size=size)
    return lambda step: jax.vmap(one)(jr.split(jr.fold_in(key, step), size))
