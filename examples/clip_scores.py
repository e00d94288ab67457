"""What `video.py` measures on clips with known truth, and what it shows of them."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from clips import AHEAD, LONG
from PIL import Image

from eqx_slots import metrics, viz


FIGURES = {
    "fg_ari": "FG-ARI",
    "ari": "ARI",
    "mbo": "mBO",
    "soft_fg_ari": "soft FG-ARI",
    "soft_ari": "soft ARI",
    "soft_mbo": "soft mBO",
    "long_fg_ari": f"FG-ARI of {LONG} frames",
    "long_ari": f"ARI of {LONG} frames",
    "long_soft_ari": f"soft ARI of {LONG} frames",
    "mse": "MSE",
    "ahead_1": "error one frame ahead",
    "ahead_5": f"error {AHEAD} frames ahead",
    "switches": "switches",
    "held": "held",
    "hidden": "hidden",
    "kept": "kept",
}
COUNTS = ("switches", "held", "hidden", "kept")
CHUNK = 16  # clips that are watched at once


def watch(model, clips, **options):
    """What the model makes of each clip, from hints if it takes them."""

    def one(images, boxes, there):
        known = {"hints": boxes, "slot_mask": there}
        known = known if model.slot_start is not None else {}
        return model(images, **known, **options)

    return jax.vmap(one)(clips.images, clips.boxes, clips.there)


def ahead_of(model, slots, clips, num_frames):
    """So many frames that the model has not seen, of each clip."""
    mask = clips.there if model.slot_start is not None else None
    look = lambda slots, mask: model.ahead(slots, num_frames, slot_mask=mask)
    return jax.vmap(look, in_axes=(0, None if mask is None else 0))(slots, mask)


@eqx.filter_jit
def _measure(model, clips):
    """Of a chunk of clips: scores of each, means, and counts of all together."""
    made, num_true = watch(model, clips), clips.boxes.shape[1] + 1
    begins = model.slot_start is None  # with hints the first frame is no achievement

    def score(frames, metric, soft, **options):
        def one(true, masks):
            clip = metrics.whole_clip(true[:frames], masks[:frames], first_frame=begins)
            if soft:
                return metric(clip.true, clip.masks, num_true=num_true, **options)
            num_predicted = masks.shape[1]
            counts = {"num_true": num_true, "num_predicted": num_predicted}
            return metric(clip.true, clip.labels, **counts, **options)

        return jax.vmap(one)(clips.segmentation, made.masks)

    seen = LONG // 4
    hard, soft = partial(score, soft=False), partial(score, soft=True)
    ari, soft_ari = metrics.adjusted_rand_index, metrics.soft_adjusted_rand_index
    alone = {"ignore_background": True}
    future = ahead_of(model, made.predicted[:, seen - 1], clips, AHEAD).images
    error = lambda picture, frame: jnp.mean((picture - clips.images[:, frame]) ** 2) / 4
    shown, first, last = clips.images[:, seen - 1], seen, seen + AHEAD - 1

    def identities(true, masks):
        counts = {"num_true": num_true, "num_predicted": masks.shape[1]}
        return metrics.identities(true, jnp.argmax(masks, axis=1), **counts)

    held = jax.tree.map(jnp.sum, jax.vmap(identities)(clips.segmentation, made.masks))
    return {
        "fg_ari": hard(seen, ari, **alone),
        "ari": hard(seen, ari),
        "mbo": hard(seen, metrics.mean_best_overlap),
        "soft_fg_ari": soft(seen, soft_ari, **alone),
        "soft_ari": soft(seen, soft_ari),
        "soft_mbo": soft(seen, metrics.soft_mean_best_overlap),
        "long_fg_ari": hard(LONG, ari, **alone),
        "long_ari": hard(LONG, ari),
        "long_soft_ari": soft(LONG, soft_ari),
        "mse": jnp.mean((made.images - clips.images) ** 2) / 4,
        "ahead_1": error(future[:, 0], first) / error(shown, first),
        "ahead_5": error(future[:, -1], last) / error(shown, last),
    } | {name: getattr(held, name) for name in COUNTS}


def figures(model, clips):
    """By name: means over all clips, and counts of all of them together."""
    chunk = lambda start: jax.tree.map(lambda x: x[start : start + CHUNK], clips)
    starts = range(0, len(clips.images), CHUNK)
    parts = [_measure(model, chunk(start)) for start in starts]

    def over_all(name):
        found = [part[name] for part in parts]
        if isinstance(found[0], metrics.Score):  # not all clips have each figure
            return metrics.mean(jax.tree.map(lambda *x: jnp.concatenate(x), *found))
        return (np.sum if name in COUNTS else np.mean)(found)

    return {name: float(over_all(name)) for name in FIGURES}


def draw(path, model, clips):
    """A row a clip: input, reconstruction, who owns each pixel, each slot. The last
    quarter of the frames is ahead: their inputs, dimmed, were not seen."""
    num_frames = clips.images.shape[1]
    num_seen = num_frames - max(1, num_frames // 4)
    seen = clips._replace(images=clips.images[:, :num_seen])
    made = eqx.filter_jit(watch)(model, seen)
    look = eqx.filter_jit(ahead_of)
    future = look(model, made.predicted[:, -1], clips, num_frames - num_seen)
    parts = ("images", "rgb", "masks")
    images, rgb, masks = (
        np.concatenate([getattr(made, name), getattr(future, name)], axis=1)
        for name in parts
    )
    visible = lambda x: (np.asarray(x) + 1) / 2
    pages = []
    for frame in range(num_frames):
        rows = []
        for clip in range(len(images)):
            true = visible(clips.images[clip, frame])
            true = true if frame < num_seen else 0.35 * true
            one = (visible(images[clip, frame]), visible(rgb[clip, frame]))
            row = viz.slot_row(true, *one, masks[clip, frame])
            rows.append([viz.enlarge(picture, 2) for picture in row])
        pages.append(Image.fromarray(viz.grid(rows)))
    whole = Image.fromarray(np.concatenate([np.asarray(page) for page in pages]))
    palette = whole.quantize(256)  # one for all frames, or colours would flicker
    first, *others = [page.quantize(palette=palette) for page in pages]
    options = {"append_images": others, "duration": 150, "loop": 0}
    first.save(path, save_all=True, **options)
