"""What `autoencoder.py` trains on each kind of scenes: its options and numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from options import check_batch, check_positive, check_weights, refuse
from recipe import IMPURITY, RISING
from scenes import Scenes, SIDES

from eqx_slots.models import presets


GOOD = {"fg_ari": 0.96, "ari": 0.97, "soft_ari": 0.95}


@dataclass(frozen=True)
class Kind:
    """A model for some scenes, and how it is trained."""

    scenes: str
    steps: int
    make: Callable[..., Any] = presets.blocks
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """What the model is built with, beside slots, channels and size of the image."""
    spare: int = 3
    """Slots beyond one for each object."""
    sparsity: float = 1e-2
    """Weight of masks that are shared out."""
    rising: tuple[float, float] = RISING
    """Between which shares of the steps that weight rises from nothing."""
    falling: tuple[float, float, float] | None = None
    """Between which shares of the steps it falls again, and to which share of it."""
    impurity: float = IMPURITY
    """What pixels that are shared out weigh beside areas."""
    one_colour: float = 0.0
    """Price of RGB that changes from place to place, in units of that weight."""
    batch_size: int = 32
    black: float = -1.0
    """The colour that a model calls black: linear RGB is trained in [-1, 1], as in the
    official code, and sigmoid RGB can only paint [0, 1]."""
    demands: Mapping[str, float] = field(default_factory=lambda: GOOD)
    """Least scores of a seed that counts as a success."""
    side: int | None = None
    """Of the pictures, if not the usual one of the scenes."""
    warmup: int | None = None
    """Steps of the paper's warm-up, for Adam by its schedule and its model."""

    @property
    def changes(self):
        """Of the weight, over the steps."""
        return {"rising": self.rising, "falling": self.falling}

    @property
    def is_small(self):
        """Whether it is ours, and comes in any size."""
        return self.warmup is None


SHAPES = {"decoder_layers": 2, "last_stride": 4}
ONE_COLOUR = 30.0  # that price, where each thing and the background have one
SMALL = {
    "blocks": Kind("blocks", 3500, sizes={"grad_iters": 1}),
    "tetrominoes": Kind(
        "tetrominoes",
        6000,
        sizes={"kernel_size": 5, "grad_iters": 1, "decoder_layers": 1},
        spare=2,
        one_colour=ONE_COLOUR,
        demands={"fg_ari": 0.95, "soft_ari": 0.90},
    ),
    "sprites": Kind(
        "sprites",
        6000,
        sizes=SHAPES,
        spare=2,
        rising=(0.4, 0.7),
        one_colour=ONE_COLOUR,
        demands={"fg_ari": 0.88},
    ),
    "solids": Kind(
        "solids",
        5500,
        sizes=SHAPES | {"halvings": 1},
        spare=1,
        sparsity=7e-3,
        rising=(0.3, 0.53),
        falling=(0.53, 0.58, 0.2),
        impurity=0.25,
        demands={"fg_ari": 0.88, "soft_ari": 0.75, "mbo": 0.68},
    ),
}
PAPER: dict[str, Any] = {"batch_size": 64, "warmup": 10_000}
TEXTBOOK: dict[str, Any] = {"sparsity": 0.0, "spare": 1}
PUBLISHED = {
    "blog": Kind("blocks", 3500, presets.blog, **TEXTBOOK, black=0.0, warmup=1000),
    "tetrominoes": Kind(
        "tetrominoes", 500_000, presets.tetrominoes, **TEXTBOOK, **PAPER
    ),
    "multi_dsprites": Kind(
        "sprites", 500_000, presets.multi_dsprites, **TEXTBOOK, **PAPER
    ),
    "clevr": Kind("solids", 500_000, presets.clevr, **TEXTBOOK, **PAPER, side=128),
}


@dataclass
class Arguments(Scenes):
    """Train a slot autoencoder on painted scenes."""

    preset: Literal["small", "blog", "tetrominoes", "multi_dsprites", "clevr"] = "small"
    """`small` is ours for each kind of scenes; `blog` the textbook's for blocks, and
    the others are the paper's, each for its own scenes, which want a GPU."""
    num_slots: int | None = None
    """If not said: so many more than the most objects as `kinds.py` has."""
    sparsity: float | None = None
    """Weight of masks shared out; if not said: 1e-2, 7e-3 for solids, and 0 with what
    is published."""
    one_colour: float | None = None
    """Price of RGB that changes within a slot, in units of `--sparsity`; if not said:
    30 for tetrominoes and sprites, and for blocks on black from 64 x 64 on, else 0, as
    with what is published."""
    batch_size: int | None = None
    """If not said: 32, and the paper's 64 with its presets."""
    rate: float = 6e-3
    """Of Muon, at most; Adam's is a third of it. The published have their own."""
    steps: int | None = None
    """If not said: as many as `kinds.py` has."""
    output: Path = Path("runs/autoencoder")

    def __post_init__(self):
        chosen = self.recipe
        if self.scenes != chosen.scenes:
            refuse(f"--preset {self.preset} is for --scenes {chosen.scenes}.")
        self.steps = chosen.steps if self.steps is None else self.steps
        side = chosen.side or SIDES[self.scenes]
        self.image_size = side if self.image_size is None else self.image_size
        super().__post_init__()
        if self.num_slots is None:
            self.num_slots = self.most + chosen.spare
        if self.batch_size is None:
            self.batch_size = chosen.batch_size
        self.sparsity = chosen.sparsity if self.sparsity is None else self.sparsity
        if self.one_colour is None:
            self.one_colour = ONE_COLOUR if self.is_large else chosen.one_colour
        check_positive(num_slots=self.num_slots, rate=self.rate)
        check_batch(self.batch_size, self.devices)
        check_weights(sparsity=self.sparsity, one_colour=self.one_colour)
        if self.scenes == "solids" and self.pool < self.batch_size:
            refuse(f"--pool must be --batch-size at least, got {self.pool}.")
        if not chosen.is_small and (self.image_size, self.channels) != (side, 3):
            only = f"--image-size {side} alone, and three channels"
            refuse(f"--preset {self.preset} is for {only}.")

    @property
    def recipe(self):
        """The model and its numbers."""
        small = self.preset == "small"
        return SMALL[self.scenes] if small else PUBLISHED[self.preset]

    @property
    def is_large(self):
        """Whether a slot that paints a block may paint the black around it as well."""
        ours = self.scenes == "blocks" and self.recipe.is_small
        return ours and self.background == "black" and (self.image_size or 0) >= 64

    @property
    def price(self):
        """Of shared pixels, and of RGB that changes within a slot: before masks decide,
        or as they do."""
        one_colour, impurity = self.one_colour or 0.0, self.recipe.impurity
        if self.is_large:
            at_once = one_colour * (self.sparsity or 0.0)
            return {"impurity": impurity, "at_once": at_once}
        return {"impurity": impurity, "one_colour": one_colour}

    @property
    def black(self):
        return self.recipe.black

    @property
    def built_with(self):
        """The sizes of the model."""
        own = ("image_size", "channels") if self.recipe.is_small else ()
        sizes = {name: getattr(self, name) for name in ("num_slots", *own)}
        return sizes | dict(self.recipe.sizes)
