"""Where the features of `features.py` come from: its options, and what it trains on."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from einops import rearrange
from options import (
    check_batch,
    check_objects,
    check_positive,
    make_folder,
    refuse,
    Run,
)

from eqx_slots import serialisation
from eqx_slots.data import features, solids
from eqx_slots.models import presets, pretrained, SlotSetPredictor, ViTFeatures


HELD_OUT = 320  # the first scenes, which are scored
TOGETHER = 16  # so many are painted and seen at once
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures


@dataclass
class Arguments(Run):
    """Train slots on the features of a frozen backbone."""

    features: Path | None = None
    """Made by anything else, of the pictures of this run; where there is no such file,
    the pictures are written for you."""
    model: Path | None = None
    """Of `set_prediction.py --scenes solids`: its encoder is the backbone. If not said,
    and none of the others is, it is that of `models.pretrained("solid_sets")`."""
    backbone: str | None = None
    """A vision transformer of Equimo by its name, such as `dinov2_vits14_reg`."""
    control: bool = False
    """Weights drawn at random: of --backbone, or alone of the encoder."""
    side: int = 224
    """Of the pictures that --backbone sees."""
    decoder: Literal["mlp", "transformer"] = "mlp"
    top_k: int | None = None
    """Slots that the MLP decodes at each place; if not said: all."""
    objects: tuple[int, int] = (3, 6)
    """Fewest and most solids in a scene."""
    image_size: int = 64
    """Side of the pictures that are painted and scored."""
    pool: int = 10_000
    """So many scenes to train on, the same for all seeds."""
    num_slots: int | None = None
    """If not said: one more than the most objects."""
    slot_size: int = 64
    hidden_size: int = 128
    """Of the decoder's MLP: twice the width of our encoder's features, so those of a
    transformer want more."""
    steps: int | None = 2000
    """A quarter of an hour of one core, with the default backbone."""
    batch_size: int = 32
    rate: float = 3e-3
    """Of Muon, at most; Adam's is a third of it."""
    cache: Path | None = None
    """Folder of the features; if not said: `tokens` in the output folder."""
    output: Path = Path("runs/features")

    def __post_init__(self):
        super().__post_init__()
        count = 3 - [self.features, self.model, self.backbone].count(None)
        if count > 1:
            ways = "--features, --model and --backbone"
            refuse(f"Where the features come from is one of {ways}.")
        if self.control and count and self.backbone is None:
            refuse("--control goes with --backbone, or alone.")
        if self.top_k is not None and self.decoder != "mlp":
            refuse("--top-k is an option of --decoder mlp.")
        check_objects(self.objects, 10)
        if self.num_slots is None:
            self.num_slots = self.objects[1] + 1
        sizes = ("num_slots", "slot_size", "hidden_size", "image_size", "side", "rate")
        check_positive(**{name: getattr(self, name) for name in sizes})
        check_batch(self.batch_size, self.devices)
        if self.top_k is not None and not 1 <= self.top_k <= self.num_slots:
            refuse(f"--top-k must be 1 to {self.num_slots}, got {self.top_k}.")
        if self.pool < self.batch_size:
            refuse(f"--pool must be --batch-size at least, got {self.pool}.")
        self.cache = self.output / "tokens" if self.cache is None else self.cache

    @property
    def painter(self):
        """Paints one scene from a key."""
        size = self.image_size, self.image_size
        return partial(solids.scene, num_objects=self.objects, image_size=size)


class Seen(eqx.Module):
    """What a backbone says of a scene, by its number: painted, seen and forgotten."""

    backbone: Callable
    prepare: Callable
    painter: Callable

    def __call__(self, number):
        return self.backbone(self.prepare(scene_at(number, self.painter).image))


def for_encoder(image):
    return 2 * image - 1


def for_transformer(image, side):
    """As large as it wants them, and standardised as those of ImageNet."""
    image = jax.image.resize(image, (3, side, side), "bilinear")
    mean, spread = (rearrange(jnp.array(x), "c -> c 1 1") for x in (MEAN, SPREAD))
    return (image - mean) / spread


def scene_at(number, painter):
    return painter(jr.fold_in(jr.key(2**31 - 1), number))


def scenes_of(numbers, arguments):
    """Scenes by their numbers, painted."""
    return jax.vmap(partial(scene_at, painter=arguments.painter))(numbers)


def tokens_of(arguments):
    """The features of all scenes, those that are scored first."""
    count = HELD_OUT + arguments.pool
    if arguments.features is not None:
        return tokens_of_file(arguments, count)
    if arguments.backbone is None:
        backbone, prepare = encoder(arguments), for_encoder
    else:
        backbone = equimo(arguments)
        prepare = partial(for_transformer, side=arguments.side)
    seen = Seen(backbone, prepare, arguments.painter)
    told = lambda number: print(f"{number} of {count} scenes seen", end="\r")
    keep = partial(features.cached, dtype="float16", batch_size=TOGETHER)
    try:
        return keep(seen, range(count), arguments.cache, progress=told)
    except ValueError as error:
        refuse(f"--cache: {error}")


def tokens_of_file(arguments, count):
    path = arguments.features
    if not path.exists():
        shown = make_folder(arguments.output) / "images.npy"
        save_pictures(shown, count, arguments)
        wanted = f"make features of the {count} pictures of {shown}, in their order"
        refuse(f"--features: there is no file {path}; {wanted}.")
    try:
        tokens = features.saved(path)
    except (OSError, ValueError) as error:
        refuse(f"--features: {error}")
    if len(tokens) != count:
        refuse(f"--features: {path} is of {len(tokens)} pictures and not of {count}.")
    return tokens


def save_pictures(path, count, arguments):
    """Bytes, `pictures 3 height width`."""
    shape = (count, 3, arguments.image_size, arguments.image_size)
    kept = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    paint = jax.jit(lambda numbers: scenes_of(numbers, arguments).image)
    for start in range(0, count, TOGETHER):
        numbers = np.arange(start, min(start + TOGETHER, count))
        kept[numbers] = np.rint(255 * paint(numbers))
    kept.flush()


def encoder(arguments):
    """Of a trained model, or as it is drawn."""
    if arguments.control:
        return eqx.filter_jit(presets.solid_sets)(key=jr.key(0)).encoder
    if arguments.model is None:
        return pretrained("solid_sets").encoder
    try:
        model = serialisation.load(arguments.model)
    except (OSError, ValueError) as error:
        refuse(f"--model: {error}")
    if not isinstance(model, SlotSetPredictor):
        refuse(f"--model: {arguments.model} is no model of `set_prediction.py`.")
    return model.encoder


def equimo(arguments):
    """By its name; its weights are downloaded, unless they are drawn."""
    try:
        models = importlib.import_module("equimo.vision.models")
    except ImportError:
        refuse("--backbone needs Python 3.12 and `pip install equimo`.")
    make = getattr(models, arguments.backbone, None)
    if make is None:
        refuse(f"--backbone: Equimo has no {arguments.backbone}.")
    options = {"pretrained": not arguments.control, "img_size": arguments.side}
    return ViTFeatures(make(**options, key=jr.key(0)))
