"""The mistakes that can be made with a video: a sentence each."""

import jax.numpy as jnp
import jax.random as jr
import pytest

from eqx_slots.models import presets
from eqx_slots.nn import GivenSlots

from .helpers import normal
from .test_video import clip, FRAMES, make, with_hints


def absent(first):
    return jnp.ones(FRAMES, bool).at[0].set(not first)


BOXES = jnp.zeros((2, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(clip()[0]), r"Did you mean `video\[None\]`"),
        (lambda m: m(clip()[None]), r"jax.vmap\(model\)\(video\)"),
        (lambda m: m(clip()[:0]), "`video` has no frame"),
        (lambda m: m(jnp.ones((5, 3, 12, 8), jnp.uint8)), "/ 255"),
        (
            lambda m: m(jnp.moveaxis(clip()[:3], 1, -1)),
            r"got \(3, 12, 8, 3\). Did you mean `jnp.moveaxis\(video, -1, 1\)`",
        ),
        (lambda m: m(clip()[:3, :1]), r"channels=3.*`Encoder\(in_channels=...\)`"),
        (lambda m: m(clip()), "pass `key="),
        (lambda m: m(clip(), key=0), "`key` must be a PRNG key"),
        (lambda m: m(clip(), hints=BOXES), "starts without `hints`.*`slot_start`"),
        (lambda m: with_hints()(clip()), r"\(BoxHints\) takes: pass `hints="),
        (
            lambda m: with_hints()(clip(), hints=BOXES, slots=normal(0, 3, 7)),
            "pass `slots` or `hints`, not both",
        ),
        (lambda m: with_hints()(clip(), hints=BOXES, num_slots=2), "are too many"),
        (lambda m: with_hints()(clip(), hints=BOXES * jnp.nan), "finite numbers"),
        (
            lambda m: m(clip(), frame_mask=absent(True), key=jr.key(0)),
            "the first frame",
        ),
        (lambda m: m(clip(), frame_mask=absent(False)[1:]), "frames=5"),
        (lambda m: m(clip(), frame_mask=jnp.ones(5)), "`frame_mask` must be boolean"),
        (lambda m: m(clip(), slot_mask=jnp.ones(3)), "`slot_mask` must be boolean"),
        (lambda m: m(clip(), slot_mask=jnp.ones((4, 3), bool)), "frames=5"),
        (
            lambda m: m(clip(), slot_mask=jnp.ones(4, bool), key=jr.key(0)),
            "for 4 slots, but there are 3",
        ),
        (
            lambda m: with_hints()(clip(), hints=BOXES, slot_mask=jnp.ones(2, bool)),
            r"\(slots=3\), got \(2,\)",
        ),
        (lambda m: m(clip(), early_gradient=1.5), r"`early_gradient`.*\[0, 1\]"),
        (lambda m: m(clip(), slots=normal(0, 3, 8)), "slot_size=7"),
        (lambda m: m(clip(), slots=normal(0, 3, 7), num_slots=2), "pass only one"),
        (lambda m: m.ahead(normal(0, 3, 7), 0), "`num_frames` must be"),
        (
            lambda m: m.ahead(normal(0, 2, 3, 7), 1),
            r"slot_size=7.*\(lambda slots: model.ahead\(slots, 1\)\)\(slots\)`",
        ),
        (lambda m: m.paint(normal(0, 3, 7)), r"slots\[None\]"),
        (
            lambda m: m.paint(normal(0, 2, 5, 3, 7)),
            r"`jax.vmap\(model.paint\)\(slots\)`",
        ),
        (lambda m: make(first_iters=0), "`first_iters` must be"),
        (
            lambda m: presets.block_videos(hints="masks", key=jr.key(0)),
            '"none" or "boxes", got \'masks\'',
        ),
        (lambda m: make(num_iters=0), "`num_iters` must be"),
        (
            lambda m: make(corrector={"num_slots": None, "slot_init": GivenSlots()})(
                clip()
            ),
            "pass the initial slots",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call(make())
