"""What frozen slots know of their objects: place, size, shape, colour and material.

    python examples/probe.py [--model FILE] [--objects FEWEST MOST]
                             [--more FEWEST MOST] [--colour NAME] [--scenes N]
                             [--steps N] [--seed S] [--output DIR]

FILE is a model of `autoencoder.py --scenes solids`. The slot of an object is the one
whose mask has most of its pixels. From that vector alone a linear map and a small MLP
learn to tell what the object is; beside it stand the same of the encoder's features,
their mean over the picture, which says nothing of which object is meant, and over the
pixels of the object, for which the truth has to be known. They are scored on scenes
never seen: such as they were trained on, objects of one colour, which they were not
trained on, and scenes of more objects than model and probes were trained on. Prints a
table and writes it into DIR, `probe.md` and `probe.json`: of the place on the ground
R^2, which is 0 for the mean and 1 for the truth, of everything else the share right.
"""

import json
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import tyro
from einops import einsum, rearrange
from files import finite, said, write
from options import check_objects, check_positive, check_run, make_folder, refuse

from eqx_slots import nn, serialisation, training
from eqx_slots.data import solids
from eqx_slots.models import SlotAutoencoder
from eqx_slots.properties import Categorical, CLEVR


HELD_OUT, TOGETHER = 1000, 20  # scenes to score, and scenes at once
HIDDEN, BATCH_SIZE, RATE = 128, 256, 3e-3  # of the probes
PROBES = {"linear": 0, "MLP": 1}  # hidden layers
VECTORS = ("slot", "picture", "its pixels")
LABELS = tuple(group.name for group in CLEVR.select(Categorical))
COLOURS = CLEVR.group("colour").labels


def see(model, key, *, objects):
    """Vectors of one scene's objects, what they are, and who has a slot alone."""
    scene = solids.scene(key, num_objects=objects, image_size=model.decoder.image_size)
    image, most = 2 * scene.image - 1, objects[1]
    seen = model.standardization(image) if model.standardization else image
    # Slots that are drawn can be any number, learned ones are as many as they are.
    is_drawn = isinstance(model.slot_attention.slot_init, nn.GaussianSlots)
    made = model(image, num_slots=most + 1 if is_drawn else None, key=key)
    pixels = jax.nn.one_hot(scene.segmentation - 1, most, axis=0)
    shared = einsum(made.masks, pixels, "slots h w, objects h w -> objects slots")
    slot = jnp.argmax(shared, axis=1)
    present = scene.objects.present
    is_same = (slot[:, None] == slot[None, :]) & present[None, :]
    features = model.encoder(seen)
    whole = jnp.broadcast_to(jnp.mean(features, axis=0), (most, features.shape[1]))
    vectors = dict(zip(VECTORS, (made.slots[slot], whole, pooled(features, pixels))))
    return vectors, solids.elements(scene), jnp.sum(is_same, axis=1) == 1


def pooled(features, pixels):
    """The mean of the features over the pixels of each object."""
    side = round(len(features) ** 0.5)
    grid = rearrange(features, "(h w) width -> h w width", h=side)
    size = (*pixels.shape[1:], grid.shape[-1])
    large = jax.image.resize(grid, size, "nearest")
    total = einsum(pixels, large, "objects h w, h w width -> objects width")
    return total / jnp.maximum(jnp.sum(pixels, axis=(1, 2)), 1)[:, None]


def objects_of(model, key, number, objects):
    """The same of the objects of many scenes, one a row."""
    one = partial(see, objects=objects)
    batch = eqx.filter_jit(lambda model, keys: jax.vmap(partial(one, model))(keys))
    keys = jr.split(key, (-(-number // TOGETHER), TOGETHER))
    parts = [jax.device_get(batch(model, some)) for some in keys]
    rows = jax.tree.map(lambda *x: np.concatenate(np.concatenate(x)), *parts)
    is_there = CLEVR.take(rows[1], "present")[:, 0] == 1
    return jax.tree.map(lambda x: x[is_there], rows)


def where(chosen, rows):
    return jax.tree.map(lambda x: x[chosen], rows)


def loss(probe, vectors, elements):
    made = jax.vmap(probe)(vectors)
    place = CLEVR.take(made, "coordinates") - CLEVR.take(elements, "coordinates")
    total = 12 * jnp.mean(place**2)  # uniform in [0, 1] has a variance of 1 / 12
    for name in LABELS:
        logits, labels = CLEVR.take(made, name), CLEVR.take(elements, name)
        total += jnp.mean(optax.softmax_cross_entropy(logits, labels))
    return total


@eqx.filter_jit
def fit(probe, vectors, elements, steps, key):
    """A probe, trained by Adam."""
    optim = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    params, static = eqx.partition(probe, eqx.is_array)

    def step(carry, key):
        params, state = carry
        some = jr.randint(key, (BATCH_SIZE,), 0, len(vectors))
        error = lambda x: loss(eqx.combine(x, static), vectors[some], elements[some])
        updates, state = optim.update(jax.grad(error)(params), state)
        return (optax.apply_updates(params, updates), state), None

    start = (params, optim.init(params))
    (params, _), _ = jax.lax.scan(step, start, jr.split(key, steps))
    return eqx.combine(params, static)


def scores(probe, vectors, elements):
    """R^2 of the place on the ground, and of each label how often it is right."""
    made = jax.vmap(probe)(vectors)
    x, y = (CLEVR.take(of, "coordinates")[:, :2] for of in (made, elements))
    found = {"place": 1 - np.sum((x - y) ** 2) / np.sum((y - y.mean(axis=0)) ** 2)}
    for name in LABELS:
        x, y = (np.argmax(CLEVR.take(of, name), axis=1) for of in (made, elements))
        found[name] = np.mean(x == y)
    return {name: float(value) for name, value in found.items()}


def table(rows, alone):
    titles = ("scored on", "from", "probe", "place", *LABELS)
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for row in rows:
        cells = [row[name] for name in titles[:3]]
        known = [said(row[name]) if name in row else "" for name in titles[3:]]
        lines.append(f"| {' | '.join([*cells, *known])} |")
    lines.append("")
    lines += [f"A slot of its own, {on}: {100 * x:.1f} %." for on, x in alone.items()]
    return "\n".join(lines)


def main(
    model: Path = Path("runs/autoencoder/model.safetensors"),
    objects: tuple[int, int] = (3, 6),
    more: tuple[int, int] = (7, 10),
    colour: str = "purple",
    scenes: int = 4000,
    steps: int = 3000,
    seed: int = 0,
    output: Path = Path("runs/probe"),
) -> list[dict]:
    check_run(steps, seed)
    check_positive(scenes=scenes)
    check_objects(objects, 10)
    check_objects(more, 10)
    if colour not in COLOURS:
        refuse(f"--colour must be one of {', '.join(COLOURS)}, got {colour}.")
    try:
        trained = serialisation.load(model)
    except (OSError, ValueError) as error:
        refuse(f"--model: {error}")
    if not isinstance(trained, SlotAutoencoder):
        refuse(f"--model: {model} is no model of `autoencoder.py`.")
    make_folder(output)
    keys = jr.split(jr.key(seed), 3)
    new = lambda rows: CLEVR.take(rows[1], "colour")[:, COLOURS.index(colour)] == 1
    seen = objects_of(trained, keys[0], scenes, objects)
    vectors, elements, _ = where(~new(seen), seen)
    test, crowd = (
        objects_of(trained, jr.key(2**31 - 1), HELD_OUT, few) for few in (objects, more)
    )
    sets = {"as in training": where(~new(test), test), colour: where(new(test), test)}
    sets["{} to {} objects".format(*more)] = where(~new(crowd), crowd)
    rows = []
    for on in VECTORS:
        mean, spread = vectors[on].mean(axis=0), vectors[on].std(axis=0) + 1e-6
        for name, depth in PROBES.items():
            width = len(mean)
            probe = eqx.nn.MLP(width, CLEVR.size, HIDDEN, depth, key=keys[1])
            probe = fit(probe, (vectors[on] - mean) / spread, elements, steps, keys[2])
            for title, (others, truth, _) in sets.items():
                found = scores(probe, (others[on] - mean) / spread, truth)
                if title == colour:
                    del found["colour"]
                rows.append({"scored on": title, "from": on, "probe": name} | found)
    rows.sort(key=lambda row: list(sets).index(row["scored on"]))
    alone = {title: float(np.mean(of[2])) for title, of in sets.items()}
    result = {"model": str(model), "objects": objects, "more": more, "colour": colour}
    result |= {"scenes": scenes, "steps": steps, "seed": seed, "alone": finite(alone)}
    result |= {"rows": [finite(row) for row in rows]}
    write(output / "probe.json", json.dumps(result, indent=2))
    write(output / "probe.md", table(rows, alone))
    print(table(rows, alone))
    return rows


if __name__ == "__main__":
    training.keep_memory()
    training.use_compilation_cache()
    tyro.cli(main)
