"""Reconstructions as a slot autoencoder makes them that works, and one for each way in
which it does not."""

import jax.numpy as jnp
import numpy as np

from eqx_slots.models import Reconstruction


BATCH, HEIGHT, WIDTH, SLOTS = 24, 18, 26, 7
COLOURS = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], float)


def painted(background=0.0, seed=0):
    """Scenes of one block in each of three columns, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((BATCH, HEIGHT, WIDTH), int)
    for one in labels:
        for number, left in enumerate(rng.permutation([0, 8, 16]), start=1):
            top, left = rng.integers(0, 12), left + rng.integers(0, 4)
            one[top : top + rng.integers(4, 7), left : left + rng.integers(4, 7)] = (
                number
            )
    colours = np.where(np.arange(4)[:, None] == 0, background, COLOURS)
    return np.moveaxis(colours[labels], 3, 1), labels


def reconstruction(images, owner, num_slots=SLOTS, leak=0.005):
    """What a model makes whose slots own the pixels that `owner` says and see all."""
    masks = (1 - leak) * (owner[:, None] == np.arange(num_slots)[:, None, None])
    return composed(images, masks + leak / num_slots)


def composed(images, masks, attention=None):
    rgb = np.repeat(images[:, None], masks.shape[1], axis=1)
    whole = np.einsum("bkchw, bkhw -> bchw", rgb, masks)
    # Places are two pixels apart, and so are those of the encoder.
    looked = masks[:, :, ::2, ::2].reshape(*masks.shape[:2], -1)
    attention = looked if attention is None else attention
    slots = np.zeros((*masks.shape[:2], 5))
    arrays = (whole, rgb, masks, slots, attention)
    return Reconstruction(*(jnp.asarray(array, jnp.float32) for array in arrays))


def shuffled(labels, seed=0):
    """Every object gets a slot of its own by chance, as where slots begin at random."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(SLOTS)[one] for one in labels])


IMAGES, LABELS = painted()
HEALTHY = reconstruction(IMAGES, shuffled(LABELS))
TRUTH = {"segmentation": jnp.asarray(LABELS), "num_true": 4}


def constant(colour):
    """The same picture for all images, by no slot in particular."""
    picture = np.broadcast_to(colour, IMAGES.shape)
    return composed(picture, np.full((BATCH, SLOTS, HEIGHT, WIDTH), 1 / SLOTS))


def overshot(change):
    return HEALTHY._replace(image=change(HEALTHY.image), rgb=change(HEALTHY.rgb))


def stripes():
    rows = np.broadcast_to(np.arange(HEIGHT)[:, None] // 3, (HEIGHT, WIDTH))
    return reconstruction(IMAGES, shuffled(np.broadcast_to(rows, LABELS.shape)))


def twins(of):
    """What the label `of` has is painted by two slots, a third and two thirds."""
    masks = 0.0 + (LABELS[:, None] == np.arange(SLOTS)[:, None, None])
    masks[:, 5] = masks[:, of] / 3
    masks[:, of] *= 2 / 3
    return composed(IMAGES, masks)


def halved():
    """The background is cut at another place in every image."""
    cut = np.random.default_rng(1).integers(2, WIDTH - 2, (BATCH, 1, 1))
    return reconstruction(
        IMAGES, np.where((LABELS == 0) & (np.arange(WIDTH) < cut), 5, LABELS)
    )


def unseen(gone=LABELS == 1):
    """What is painted as the background is, by its slot."""
    picture = np.where(gone[:, None], 0.0, IMAGES)
    return reconstruction(picture, np.where(gone, 0, LABELS))


def faded(part):
    """Some pixels of the objects are so, chosen at random."""
    rank = np.random.default_rng(0).permutation(LABELS.size) / LABELS.size
    return unseen((rank.reshape(LABELS.shape) < part) & (LABELS > 0))


# For each number batches (images, made) on which it passes its limit while `part` goes
# from 0 to 1, and no other finding explains it.


def mixed(part, bad, where=True):
    """Masks of another make on a part of each pixel."""
    bad = np.asarray(bad.masks) if isinstance(bad, Reconstruction) else bad
    masks = np.asarray(HEALTHY.masks, np.float64)
    return composed(IMAGES, np.where(where, (1 - part) * masks + part * bad, masks))


def some(part, bad, where=True):
    """The same on a part of the pixels, some whole ones, chosen at random."""
    rank = np.random.default_rng(0).permutation(LABELS.size) / LABELS.size
    chosen = (rank.reshape(BATCH, 1, HEIGHT, WIDTH) < part) & where
    masks = np.where(chosen, np.asarray(bad.masks), np.asarray(HEALTHY.masks))
    return composed(IMAGES, masks)


def many(part, bad, number=360):
    """The same in a part of many images."""
    counts = np.arange(number)
    chosen = counts < part * number
    pick = lambda bad, good: np.where(
        chosen.reshape(-1, *[1] * (bad.ndim - 1)),
        np.asarray(bad)[counts % BATCH],
        np.asarray(good)[counts % BATCH],
    )
    good = reconstruction(IMAGES, LABELS, num_slots=bad.masks.shape[1])
    made = Reconstruction(*(jnp.asarray(pick(*x)) for x in zip(bad, good)))
    return IMAGES[counts % BATCH], made


def saturated(part):
    """One slot more paints black, saturated, and takes a part of each pixel."""
    masks = np.asarray(HEALTHY.masks, np.float64) * (1 - part)
    masks = np.concatenate([masks, np.full_like(masks[:, :1], part)], axis=1)
    rgb = np.repeat(0.1 + 0.8 * IMAGES[:, None], SLOTS + 1, axis=1)
    rgb[:, -1] = 1e-6
    made = composed(IMAGES, masks)
    whole = np.einsum("bkchw, bkhw -> bchw", rgb, masks)
    return made._replace(image=jnp.asarray(whole), rgb=jnp.asarray(rgb))


EVEN = np.full((BATCH, SLOTS, HEIGHT, WIDTH), 1 / SLOTS)
OBJECTS = (LABELS > 0)[:, None]
# Every other pixel of the first object goes to the last of five slots.
SPLIT = np.where((LABELS == 1) & (np.arange(WIDTH) % 2 == 0), 4, LABELS)
CROWDED = reconstruction(IMAGES, SPLIT, num_slots=5)
TURNING = {
    "reconstruction_error": lambda part: (
        IMAGES,
        HEALTHY._replace(
            image=jnp.asarray(IMAGES + part**0.5 * (IMAGES.mean(axis=0) - IMAGES))
        ),
    ),
    "saturated_error": lambda part: (IMAGES, saturated(part)),
    "undecided_objects": lambda part: (IMAGES, mixed(part, EVEN, OBJECTS)),
    "lost_objects": lambda part: (IMAGES, faded(part)),
    "effective_slots": lambda part: (
        IMAGES,
        reconstruction(IMAGES, np.full(LABELS.shape, 2), leak=0.1 * part),
    ),
    "position_dependence": lambda part: many(part, stripes()),
    "undecided_background": lambda part: (IMAGES, mixed(part, EVEN, ~OBJECTS)),
    "duplicate_slots": lambda part: many(part, twins(2)),
    "shared_background": lambda part: (
        IMAGES,
        some(0.4 * part, reconstruction(IMAGES, np.full(LABELS.shape, 6)), ~OBJECTS),
    ),
    "merged_objects": lambda part: many(
        part, reconstruction(IMAGES, np.minimum(LABELS, 2))
    ),
    "crowded_images": lambda part: many(part, CROWDED),
    "attention_agreement": lambda part: (
        IMAGES,
        HEALTHY._replace(
            attention=(1 - part) * HEALTHY.attention
            + part * jnp.roll(HEALTHY.attention, 3, axis=1)
        ),
    ),
}


FAILING = {
    "mean image": (constant(IMAGES.mean(axis=0)), ["reconstruction_error"]),
    "background": (constant(0.02), ["reconstruction_error"]),
    "diverged": (overshot(lambda x: 9 * x - 4), ["reconstruction_error"]),
    "not finite": (overshot(lambda x: x / x), ["reconstruction_error"]),
    "dead": (constant(1e-6), ["reconstruction_error", "saturated_error"]),
    "undecided": (
        composed(IMAGES, np.full((BATCH, SLOTS, HEIGHT, WIDTH), 1 / SLOTS)),
        ["undecided_objects"],
    ),
    "one slot": (
        reconstruction(IMAGES, np.full(LABELS.shape, 2), leak=0.001),
        ["effective_slots"],
    ),
    "unseen": (unseen(), ["lost_objects"]),
    "stripes": (stripes(), ["position_dependence"]),
    "twins": (twins(2), ["duplicate_slots"]),
    "background in layers": (twins(0), ["undecided_background"]),
    "halved": (halved(), ["shared_background"]),
    "pairs": (
        reconstruction(IMAGES, shuffled(np.minimum(LABELS, 2))),
        ["merged_objects"],
    ),
    "swallowed": (
        reconstruction(IMAGES, shuffled(LABELS % 3)),
        ["merged_objects"],
    ),
    "elsewhere": (
        HEALTHY._replace(attention=jnp.roll(HEALTHY.attention, 3, axis=1)),
        ["attention_agreement"],
    ),
}
