"""Find objects in the features of a frozen backbone, by these features alone.

    python examples/features.py [--features FILE | --model FILE
                                | --backbone NAME [--control] [--side SIDE] | --control]
                                [--decoder mlp|transformer] [--top-k N]
                                [--objects FEWEST MOST] [--pool N] [--steps N]
                                [--seed S] [--seeds N] [--resume] [--devices N]
                                [--output DIR]

Of painted solids. The backbone is the encoder of `models.pretrained("solid_sets")`,
which was trained with labels, or of FILE, a model of `set_prediction.py --scenes
solids`; NAME is one of Equimo's vision transformers, the weights of which it downloads;
`--features` are of anything else. `--control` has random weights: what slots find in
those they owe to no training of the backbone. Features are computed once, into `tokens`
of DIR, for all seeds. DIR gets `metrics.json` (scores of the decoder's masks, and of
the attention's, on 320 scenes never trained on; the error is a share of that of the
mean features), `history.jsonl`, `masks.png` (the scene, whom each pixel belongs to by
the decoder and by the attention, what each slot owns), `training.png` and
`model.safetensors`. Ctrl-C stops early and writes all the same.
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
from backbones import Arguments, HELD_OUT, scenes_of, tokens_of
from files import curves, said, write_result
from follow import follow, read_ahead
from kinds import SMALL
from options import make_folder
from pictures import sheet
from recipe import optimiser
from scores import FIGURES, mask_figures, OF_MASKS
from seeds import over_seeds

from eqx_slots import losses, serialisation, training, viz
from eqx_slots.models import presets


DEMANDS = SMALL["solids"].demands  # those of slots on pixels
SHOWN = ("fg_ari", "soft_ari", "mbo", "attention_fg_ari", "attention_mbo")


@dataclass(frozen=True)
class Source:
    """The features of scenes from a first one on; read when they are asked for."""

    tokens: Any
    first: int

    def __len__(self):
        return len(self.tokens) - self.first

    def __getitem__(self, index):
        return self.tokens[self.first + index]


def look(model, tokens, key):
    one = lambda of: model(of[0], key=of[1])
    # Not all at once: the MLP decoder's hidden layers are many times the features.
    some = min(32, len(tokens))
    return jax.lax.map(one, (tokens, jr.split(key, len(tokens))), batch_size=some)


def loss(model, tokens, key):
    """The error of the raw features, as DINOSAUR has it."""
    one = lambda tokens, key: model(tokens, key=key)
    made = jax.vmap(one)(tokens, jr.split(key, len(tokens)))
    return losses.mean_squared_error(made.features, tokens), None


def both_masks(made, size):
    """The decoder's masks and the attention's, as large as the pictures."""
    enlarge = jax.vmap(lambda made: made.masks_at(size))
    return enlarge(made), enlarge(made._replace(masks=made.attention))


@eqx.filter_jit
def evaluate(model, tokens, scenes, key):
    """The scores of both masks, and the error as a share of the mean features'."""
    made = look(model, tokens, key)
    size = scenes.segmentation.shape[1:]
    figures = {}
    for whose, masks in zip(("", "attention_"), both_masks(made, size)):
        values = mask_figures(masks, scenes)
        figures |= {f"{whose}{name}": values[name] for name in values}
    error = losses.mean_squared_error(made.features, tokens)
    return figures | {"error": error / jnp.mean(jnp.var(tokens, axis=0))}


def text(row):
    """What is shown of a run on its way."""
    scores = (f"{FIGURES[name]} {said(row[name])}" for name in ("fg_ari", "soft_ari"))
    error, speed = f"error {row['error']:.3f}", f"{row['steps_per_second']:.1f} steps/s"
    attention = f"attention's FG-ARI {said(row['attention_fg_ari'])}"
    return "  ".join([error, *scores, attention, speed])


def train(arguments, tokens, built_with, judge):
    model_key, run_key = jr.split(jr.key(arguments.seed))
    model = eqx.filter_jit(presets.dinosaur)(**built_with, key=model_key)
    optim = optimiser(arguments.steps, arguments.rate)
    source = Source(tokens, HELD_OUT)
    as_read = lambda tokens, step: tokens
    step, batch_at = read_ahead(arguments, loss, optim, source, as_read)
    state = training.TrainState.create(model, optim, use_ema=True, key=run_key)
    return follow(arguments, step, state, batch_at, judge, text)


def draw(path, model, tokens, scenes, key):
    """The scene, who owns each pixel, by the decoder and by the attention; each slot's
    share of the scene."""
    size = scenes.segmentation.shape[1:]
    see = lambda model, tokens: both_masks(look(model, tokens, key), size)
    both = eqx.filter_jit(see)(model, tokens)
    labels = (np.argmax(masks, axis=1) for masks in both)
    rows = []
    for image, shares, *owners in zip(np.asarray(scenes.image), both[0], *labels):
        row = [viz.picture(image), *map(viz.segmentation, owners)]
        rows.append([*row, *(viz.picture(image * one) for one in shares)])
    sheet(rows).save(path)


def main(arguments: Arguments) -> dict:
    folder = make_folder(arguments.output)
    tokens = tokens_of(arguments)
    num_inputs, width = tokens[0].shape
    built_with = {"feature_size": width, "num_inputs": num_inputs}
    names = ("num_slots", "slot_size", "hidden_size", "decoder", "top_k")
    built_with |= {name: getattr(arguments, name) for name in names}
    held_out = jnp.asarray(tokens[:HELD_OUT])
    scenes = jax.jit(lambda: scenes_of(jnp.arange(HELD_OUT), arguments))()
    key = jr.key(2**31 - 1)
    judge = lambda model: evaluate(model, held_out, scenes, key)
    model, history, stopped = train(arguments, tokens, built_with, judge)

    names = [f"{whose}{name}" for whose in ("", "attention_") for name in OF_MASKS]
    last = {name: history[-1][name] for name in (*names, "error")}
    result = write_result(arguments, last, history, stopped)
    curves(folder / "training.png", history, {name: name for name in SHOWN})
    path = folder / "model.safetensors"
    serialisation.save(path, model, make=presets.dinosaur, arguments=built_with)
    few = jax.tree.map(lambda x: x[:8], scenes)
    draw(folder / "masks.png", model, held_out[:8], few, key)
    print(f"Look at {folder / 'masks.png'}")
    return result


if __name__ == "__main__":
    over_seeds(main, tyro.cli(Arguments), DEMANDS)
