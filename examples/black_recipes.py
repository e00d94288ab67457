"""Recipes for slot autoencoders on black: what `black_background.py` compares.

The tutorial's and the textbook's, each with one change at a time, and ours. A recipe
says how to paint a batch, build the model and optimise it.
"""

from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from recipe import optimiser

from eqx_slots import nn, training
from eqx_slots.data import blocks
from eqx_slots.models import presets, start_from_colour


class Recipe(NamedTuple):
    """What is changed; the defaults are the textbook's."""

    background: str = "black"
    is_linear: bool = False  # RGB, on images in [-1, 1]; else sigmoid, in [0, 1]
    num_slots: int = 5
    is_learned: bool = False  # initial slots, with gradients through the last round
    is_muon: bool = False
    rate: float = 4e-4  # of Adam
    warmup: int = 200  # steps until it has that rate
    starts_black: bool = False  # paints it before anything is learned
    is_large: bool = False  # the preset `blog`: 5 x 5 kernels, no stride

    @property
    def black(self):
        return -1.0 if self.is_linear else 0.0


TEXTBOOK, OURS = Recipe(), Recipe("black", True, 7, True, True)
TUTORIAL = Recipe(rate=1e-3, warmup=0, is_large=True)
RECIPES = {
    "tutorial": TUTORIAL,
    "tutorial on gray": TUTORIAL._replace(background="gray"),
    "tutorial, linear RGB": TUTORIAL._replace(is_linear=True),
    "tutorial at 4e-4": TUTORIAL._replace(rate=4e-4),
    "tutorial, warm-up": TUTORIAL._replace(warmup=1000),
    "tutorial, black to begin with": TUTORIAL._replace(starts_black=True),
    "tutorial, Muon": TUTORIAL._replace(is_muon=True),
    "textbook": TEXTBOOK,
    "textbook on gray": TEXTBOOK._replace(background="gray"),
    "seven slots": TEXTBOOK._replace(num_slots=7),
    "learned slots, last round": TEXTBOOK._replace(is_learned=True),
    "linear RGB": TEXTBOOK._replace(is_linear=True),
    "five times the rate": TEXTBOOK._replace(rate=2e-3),
    "black to begin with": TEXTBOOK._replace(starts_black=True),
    "Muon": TEXTBOOK._replace(is_muon=True),
    "ours": OURS,
    "ours, sigmoid RGB": OURS._replace(is_linear=False),
    "ours, Adam": OURS._replace(is_muon=False),
    "ours, black to begin with": OURS._replace(starts_black=True),
    "the same, Adam": OURS._replace(starts_black=True, is_muon=False),
}


def paint(key, number, recipe):
    scene = partial(blocks.scene, background=recipe.background)
    scenes = jax.vmap(scene)(jr.split(key, number))
    black = recipe.black
    return scenes._replace(image=black + (1 - black) * scenes.image)


def build(recipe, key):
    """The example's small model or the large one, with the recipe's slots and RGB."""
    small = partial(presets.blocks, grad_iters=1)  # as they were measured
    make = presets.blog if recipe.is_large else small
    model = make(num_slots=recipe.num_slots, key=key)
    activation = jax.nn.identity if recipe.is_linear else jax.nn.sigmoid
    model = eqx.tree_at(lambda m: m.decoder.rgb_activation, model, activation)
    if not recipe.is_learned and not recipe.is_large:
        layer = nn.SlotAttention(32, 64, num_slots=recipe.num_slots, key=key)
        model = eqx.tree_at(lambda m: m.slot_attention, model, layer)
    if recipe.starts_black:
        model = start_from_colour(model, jnp.full(3, recipe.black))
    return model


def optimise(recipe, steps):
    if recipe.is_muon:
        return optimiser(steps, 3e-3)
    rate = recipe.rate
    if recipe.warmup:
        rate = training.paper_schedule(rate, warmup_steps=recipe.warmup)
    return training.adam(rate)
