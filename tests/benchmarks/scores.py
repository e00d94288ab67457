"""The scores of masks as they are, against those of their arg-max.

    pip install -e ".[dev]" && python -m tests.benchmarks.scores

ARI, FG-ARI, mean best overlap and mean IoU of 320 scenes of 32 x 32 pixels, four blocks
and six slots, as the default example asks for them: both kinds compiled, the arg-max
part of its kind, in turns in one process; the ratio of the medians counts. Then each
score alone.
"""

import statistics
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_slots import metrics

from .turns import milliseconds


SCENES, SLOTS, LABELS, SIDE = 320, 6, 5, 32
FOREGROUND = {"ignore_background": True}
SCORES = {
    "ARI": ("adjusted_rand_index", {}),
    "FG-ARI": ("adjusted_rand_index", FOREGROUND),
    "mBO": ("mean_best_overlap", {}),
    "mIoU": ("mean_iou", {}),
}


def by_largest(names, truth, masks):
    """The scores of the arg-max."""
    predicted, made = jnp.argmax(masks, axis=1), []
    for name, options in (SCORES[title] for title in names):
        sizes = {"num_true": LABELS, "num_predicted": SLOTS}
        one = partial(getattr(metrics, name), **sizes, **options)
        made.append(metrics.mean(jax.vmap(one)(truth, predicted)))
    return made


def as_they_are(names, truth, masks):
    made = []
    for name, options in (SCORES[title] for title in names):
        one = partial(getattr(metrics, f"soft_{name}"), num_true=LABELS, **options)
        made.append(metrics.mean(jax.vmap(one)(truth, masks)))
    return made


def main(turns: int = 50) -> dict[str, float]:
    truth = jr.randint(jr.key(0), (SCENES, SIDE, SIDE), 0, LABELS)
    noise = jr.normal(jr.key(1), (SCENES, SLOTS, SIDE, SIDE))
    masks = jax.nn.softmax(3 * noise, axis=1)
    wait, ratios = lambda route: jax.block_until_ready(route(truth, masks)), {}
    print("| | largest mask, ms | masks as they are, ms | |\n" + 4 * "| --- " + "|")
    several = {"all four": tuple(SCORES)} | {name: (name,) for name in SCORES}
    for title, names in several.items():
        routes = [jax.jit(partial(f, names)) for f in (by_largest, as_they_are)]
        times = [[], []]
        for _ in range(1 + turns):
            for route, past in zip(routes, times):
                past.append(milliseconds(partial(wait, route)))
        hard, soft = (statistics.median(past[1:]) for past in times)
        ratios[title] = soft / hard
        print(f"| {title} | {hard:.1f} | {soft:.1f} | {soft / hard:.2f}x |", flush=True)
    return ratios


if __name__ == "__main__":
    main()
