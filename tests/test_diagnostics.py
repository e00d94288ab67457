from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given

from eqx_slots import diagnostics
from eqx_slots.diagnostics import _findings
from eqx_slots.models import (
    Encoder,
    Reconstruction,
    SlotAutoencoder,
    SpatialBroadcastDecoder,
)
from eqx_slots.nn import LearnedSlots, SlotAttention

from .helpers import built, float64, run, seeds


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


def reconstruction(images, owner, num_slots=SLOTS, leak=0.02):
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


def names(images, made, **options):
    findings = diagnostics.diagnose(jnp.asarray(images, jnp.float32), made, **options)
    return [finding.name for finding in findings if finding.is_wrong]


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


FAILING = {
    "mean image": (constant(IMAGES.mean(axis=0)), ["reconstruction_error"]),
    "background": (constant(0.02), ["reconstruction_error"]),
    "diverged": (overshot(lambda x: 9 * x - 4), ["reconstruction_error"]),
    "not finite": (overshot(lambda x: x / x), ["reconstruction_error"]),
    "dead": (constant(1e-6), ["reconstruction_error", "saturated_error"]),
    "undecided": (
        composed(IMAGES, np.full((BATCH, SLOTS, HEIGHT, WIDTH), 1 / SLOTS)),
        ["undecided_masks"],
    ),
    "one slot": (
        reconstruction(IMAGES, np.full(LABELS.shape, 2), leak=0.001),
        ["effective_slots"],
    ),
    "stripes": (stripes(), ["position_dependence"]),
    "twins": (twins(2), ["duplicate_slots"]),
    "twins of the background, one leading": (twins(0), []),
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


@pytest.mark.parametrize("case", FAILING.values(), ids=FAILING.keys())
def test_each_failure_is_named_and_nothing_else_is(case):
    made, wanted = case
    assert names(IMAGES, made, **TRUTH) == wanted
    if wanted != ["merged_objects"]:
        assert names(IMAGES, made) == wanted


@pytest.mark.parametrize("background", [0.0, 0.5, -1.0])
def test_nothing_is_found_wrong_with_a_healthy_model(background):
    images, labels = painted(background, seed=3)
    made = reconstruction(images, shuffled(labels))
    truth = {"segmentation": jnp.asarray(labels), "num_true": 4}
    assert names(images, made) == names(images, made, **truth) == []


def test_too_few_slots_are_seen_without_labels():
    made = reconstruction(IMAGES, LABELS, num_slots=4)
    assert names(IMAGES, made) == ["crowded_images"]
    assert names(IMAGES, made, **TRUTH) == []
    merged = reconstruction(IMAGES, np.minimum(LABELS, 2), num_slots=3)
    assert names(IMAGES, merged) == ["crowded_images"]
    assert names(IMAGES, merged, **TRUTH) == ["merged_objects"]


def findings(images, made, **options):
    found = diagnostics.diagnose(jnp.asarray(images, jnp.float32), made, **options)
    return {finding.name: finding for finding in found}


def test_findings_are_plain_and_come_in_order():
    found = findings(IMAGES, HEALTHY)
    assert list(found) == [
        "reconstruction_error",
        "saturated_error",
        "undecided_masks",
        "effective_slots",
        "position_dependence",
        "duplicate_slots",
        "shared_background",
        "crowded_images",
        "attention_agreement",
    ]
    for name, finding in found.items():
        assert getattr(diagnostics, name).__name__ == name
        kinds = (str, float, float, bool, str)
        assert tuple(type(part) for part in finding) == kinds
        assert finding.sentence.endswith(".")
    labelled = findings(IMAGES, HEALTHY, **TRUTH)
    assert list(labelled) == [
        "merged_objects" if name == "crowded_images" else name for name in found
    ]


def test_the_sentence_tells_collapsed_diverged_and_not_finite_apart():
    for case, words in {
        "mean image": "whatever it sees",
        "diverged": "diverged",
        "not finite": "not finite",
    }.items():
        error, *others = findings(IMAGES, FAILING[case][0]).values()
        assert words in error.sentence
        # Its consequences are not counted beside it.
        assert [one.name for one in others if one.is_wrong] == []
    assert (
        "not finite" in findings(0 * IMAGES, HEALTHY)["reconstruction_error"].sentence
    )


def test_a_consequence_points_to_its_cause():
    found = findings(IMAGES, FAILING["undecided"][0])
    blurred = found["attention_agreement"]
    assert blurred.value < blurred.limit
    assert not blurred.is_wrong
    assert blurred.sentence == "Says little: see `undecided_masks`."


def test_limits_are_where_the_finding_says():
    limit = findings(IMAGES, HEALTHY)["reconstruction_error"].limit
    mean = IMAGES.mean(axis=0, keepdims=True)
    for share, is_wrong in ((limit - 0.01, False), (limit + 0.01, True)):
        worse = IMAGES + share**0.5 * (mean - IMAGES)
        made = HEALTHY._replace(image=jnp.asarray(worse, jnp.float32))
        error = findings(IMAGES, made)["reconstruction_error"]
        np.testing.assert_allclose(error.value, share, rtol=1e-5)
        assert error.is_wrong == is_wrong


def test_what_cannot_be_told_is_not_wrong():
    busy = np.random.default_rng(0).random(IMAGES.shape)
    background = findings(busy, reconstruction(busy, shuffled(LABELS)))[
        "shared_background"
    ]
    assert np.isnan(background.value)
    assert not background.is_wrong
    assert background.sentence == "Cannot be told from this batch."


def test_attention_over_something_else_than_places_is_left_out():
    made = HEALTHY._replace(attention=jnp.ones((BATCH, SLOTS, 5)) / SLOTS)
    assert "attention_agreement" not in findings(IMAGES, made)
    with pytest.raises(ValueError, match="over 5 places is no grid"):
        diagnostics.attention_agreement(made)


# Against loops in NumPy.


def random_batch(seed, size=(5, 4, 9, 11)):
    batch, slots, height, width = size
    rng = np.random.default_rng(seed)
    masks = rng.dirichlet(np.full(slots, 0.2), (batch, height, width))
    masks = np.moveaxis(masks, 3, 1)
    rgb = 1 / (1 + np.exp(-6 * rng.normal(size=(batch, slots, 3, height, width))))
    image = np.einsum("bkchw, bkhw -> bchw", rgb, masks)
    attention = rng.dirichlet(np.full(slots, 0.5), (batch, 30)).transpose(0, 2, 1)
    slots = rng.normal(size=(batch, slots, 3))
    arrays = (image, rgb, masks, slots, attention)
    made = Reconstruction(*(jnp.asarray(x, jnp.float32) for x in arrays))
    images = rng.random((batch, 3, height, width))
    labels = rng.integers(0, 4, (batch, height, width))
    return jnp.asarray(images, jnp.float32), made, jnp.asarray(labels)


def slow_numbers(images, made, labels):
    """Every number from its definition, one image, slot and pixel after the other."""
    images, labels = np.asarray(images, np.float64), np.asarray(labels)
    image, rgb, masks, _, attention = (np.asarray(x, np.float64) for x in made)
    batch, slots, height, width = masks.shape
    of_mean = ((images - images.mean(0)) ** 2).mean()
    squared = (image - images) ** 2
    ended = (rgb < 0.01) | (rgb > 0.99)
    dead = sum(masks[:, k, None] * ended[:, k] * squared for k in range(slots))
    owner = masks.argmax(1)
    effective, background, own, objects, crowded, together = [], [], 0, 0, [], []
    places = masks[:, :, 1::2, 1::2].reshape(batch, slots, -1)
    for b in range(batch):
        share = masks[b].mean((1, 2))
        effective.append(np.exp(-sum(p * np.log(p) for p in share)))
        counts = np.array(
            [
                [((owner[b] == k) & (labels[b] == t)).sum() for k in range(slots)]
                for t in range(4)
            ]
        )
        background.append(1 - counts[0].max() / counts[0].sum())
        there = [t for t in range(4) if counts[t].sum() > 0]
        main = {t: set(np.flatnonzero(counts[t] == counts[t].max())) for t in there}
        for t in set(there) - {0}:
            objects += 1
            own += all(main[t].isdisjoint(main[u]) for u in there if u != t)
        crowded.append(all(counts.sum(0) >= 0.01 * height * width))
        p, q = np.triu_indices(places.shape[2], 1)
        together.append((places[b][:, p] * places[b][:, q]).sum(0))
    together = np.array(together)
    looked = attention.reshape(batch, slots, 5, 6).repeat(2, 2).repeat(2, 3)
    looked = looked[:, :, :height, :width]
    looked = looked - looked.mean((2, 3), keepdims=True)
    centred = masks - masks.mean((2, 3), keepdims=True)
    return {
        "reconstruction_error": squared.mean() / of_mean,
        "saturated_error": dead.mean() / of_mean,
        "undecided_masks": (1 - masks.max(1)).mean() * slots / (slots - 1),
        "effective_slots": np.mean(effective),
        "position_dependence": max(
            1 - together.var(0, ddof=1).mean() / together.var(), 0
        ),
        "shared_background": np.mean(background),
        "merged_objects": 1 - own / objects,
        "crowded_images": np.mean(crowded),
        "attention_agreement": np.corrcoef(looked.ravel(), centred.ravel())[0, 1],
    }


def all_numbers(images, made, labels):
    d, mask_numbers = diagnostics, {}
    for name in (
        "undecided_masks",
        "effective_slots",
        "position_dependence",
        "duplicate_slots",
        "crowded_images",
        "attention_agreement",
    ):
        mask_numbers[name] = getattr(d, name)(made)
    return mask_numbers | {
        "reconstruction_error": d.reconstruction_error(images, made),
        "saturated_error": d.saturated_error(images, made),
        "shared_background": d.shared_background(images, made, segmentation=labels),
        "merged_objects": d.merged_objects(made, labels, num_true=4),
        "plain_background": d.shared_background(images, made),
    }


compiled_numbers = jax.jit(all_numbers)


def same(got, want):
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


@given(seed=seeds)
def test_numbers_are_what_they_say(seed):
    batch = random_batch(seed)
    same(compiled_numbers(*batch), slow_numbers(*batch))


@given(seed=seeds)
def test_the_order_of_slots_and_images_does_not_matter(seed):
    images, made, labels = random_batch(seed)
    want = compiled_numbers(images, made, labels)
    rng = np.random.default_rng(seed)
    order = rng.permutation(5)
    batch = jax.tree.map(lambda x: x[order], (images, made, labels))
    same(compiled_numbers(*batch), want)
    # The slots of each image in an order of their own.
    orders = np.stack([rng.permutation(4) for _ in range(5)])
    rows = np.arange(5)[:, None]
    mixed = Reconstruction(made.image, *(x[rows, orders] for x in made[1:]))
    same(compiled_numbers(images, mixed, labels), want)


def test_jit_equals_eager():
    batch = random_batch(0)
    same(all_numbers(*batch), compiled_numbers(*batch))
    scene = (jnp.asarray(IMAGES, jnp.float32), twins(2), jnp.asarray(LABELS))
    same(all_numbers(*scene), compiled_numbers(*scene))


def test_duplicates_are_counted_by_group():
    """Four columns; the first is the background's. Images of two and of three alike."""
    masks = np.zeros((2, 6, 4, 8))
    masks[:, 0, :, :4] = 1
    masks[0, 1:3, :, 4:] = 0.5  # two alike
    masks[1, 1:4, :, 4:6] = 1 / 3  # three alike, and
    masks[1, 4, :, 6:], masks[1, 5, :, 6:] = 0.99, 0.01  # one of the two is unused
    masks[1, 4, 0, 6:], masks[1, 5, 0, 6:] = 1, 0
    made = composed(np.zeros((2, 3, 4, 8)), masks)
    assert float(diagnostics.duplicate_slots(made)) == 1.5
    assert float(diagnostics.duplicate_slots(made, threshold=1.0)) == 0


def test_no_kept_slot_is_no_error():
    nothing = composed(IMAGES, np.zeros((BATCH, SLOTS, HEIGHT, WIDTH)))
    got = all_numbers(jnp.asarray(IMAGES, jnp.float32), nothing, jnp.asarray(LABELS))
    assert all(np.isfinite(value) for value in got.values())
    assert float(got["effective_slots"]) == 1
    assert float(got["undecided_masks"]) == 0


def test_one_slot_is_never_undecided():
    made = composed(IMAGES, np.ones((BATCH, 1, HEIGHT, WIDTH)))
    assert float(diagnostics.undecided_masks(made)) == 0
    assert float(diagnostics.position_dependence(made)) == 0
    assert float(diagnostics.attention_agreement(made)) == 0


def test_the_plain_background_is_the_true_one():
    for background, noise in ((0.5, 0.02), (0.0, 0.0)):
        images, labels = painted(background)
        rng = np.random.default_rng(0)
        images = images + noise * rng.normal(size=images.shape)
        images = jnp.asarray(images, jnp.float32)
        made = reconstruction(images, np.where(LABELS == 0, rng.integers(3), LABELS))
        plain = diagnostics.shared_background(images, halved())
        truth = jnp.asarray(labels)
        known = diagnostics.shared_background(images, halved(), segmentation=truth)
        np.testing.assert_allclose(plain, known, atol=1e-6)
        assert float(plain) > 0.1
        assert float(diagnostics.shared_background(images, made)) == 0


def test_without_objects_or_background_there_is_no_number():
    nothing, everything = jnp.zeros((BATCH, HEIGHT, WIDTH), int), jnp.asarray(LABELS)
    assert np.isnan(diagnostics.merged_objects(HEALTHY, nothing, num_true=4))
    images = jnp.asarray(IMAGES, jnp.float32)
    full = jnp.maximum(everything, 1)
    assert np.isnan(diagnostics.shared_background(images, HEALTHY, segmentation=full))
    # An image without background does not count, the others do.
    one = everything.at[0].set(1)
    got = diagnostics.shared_background(images, halved(), segmentation=one)
    rest = jax.tree.map(lambda x: x[1:], (images, halved(), everything))
    want = diagnostics.shared_background(*rest[:2], segmentation=rest[2])
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_linear_rgb_is_not_saturated():
    images, made, _ = random_batch(0)
    assert float(diagnostics.saturated_error(images, made)) > 0
    linear = made._replace(rgb=made.rgb.at[0, 0, 0, 0, 0].set(-0.1))
    assert float(diagnostics.saturated_error(images, linear)) == 0
    # The same in [-1, 1], as from a tanh.
    tanh = made._replace(rgb=2 * made.rgb - 1, image=2 * made.image - 1)
    got = diagnostics.saturated_error(2 * images - 1, tanh, rgb_range=(-1.0, 1.0))
    want = diagnostics.saturated_error(images, made)
    np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_numbers_are_at_least_float32(dtype):
    images, made, labels = random_batch(0)
    want = compiled_numbers(images, made, labels)
    with float64():
        narrow = jax.tree.map(lambda x: x.astype(dtype), (images, made))
        got = compiled_numbers(*narrow, labels)
        for name, value in got.items():
            assert value.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
            if name != "crowded_images":
                np.testing.assert_allclose(value, want[name], rtol=0.05, atol=0.02)
        # The model may compute in less than the images are given in.
        mixed = diagnostics.diagnose(narrow[0], made)
        assert len(mixed) == 9


def test_diagnose_compiles_once(monkeypatch):
    measure = _findings._measure.__wrapped__
    once = eqx.filter_jit(eqx.debug.assert_max_traces(measure, max_traces=1))
    monkeypatch.setattr(_findings, "_measure", once)
    images = jnp.asarray(IMAGES, jnp.float32)
    first = diagnostics.diagnose(images, HEALTHY)
    assert diagnostics.diagnose(images, HEALTHY) == first
    assert diagnostics.diagnose(images, stripes()) != first


# Real models, broken on purpose. Their own pictures are the images, where it is not the
# picture that is wrong: untrained, they paint nothing else.


def small_model(num_slots=3, rgb_activation=jax.nn.sigmoid):
    def make(key):
        encoder = Encoder(5, strides=(2,), kernel_size=3, key=key)
        decoder = SpatialBroadcastDecoder(
            7,
            grid_size=(4, 6),
            hidden_sizes=(5,),
            kernel_sizes=(3, 3),
            strides=(2, 2),
            rgb_activation=rgb_activation,
            key=key,
        )
        start = LearnedSlots(num_slots, 7, key=key)
        layer = SlotAttention(5, 7, num_slots=num_slots, slot_init=start, key=key)
        return SlotAutoencoder(encoder, layer, decoder)

    return built(make, seed=1)


SCENES = jnp.asarray(painted()[0][:, :, :16, :24], jnp.float32)


def see(model):
    return run(jax.vmap(model), SCENES)


def test_a_bias_that_saturates_the_sigmoid():
    where = lambda model: model.decoder.convs[-1].bias
    model = small_model()
    assert where(model).shape == (4, 1, 1)
    dead = eqx.tree_at(where, model, where(model).at[:3].add(-40.0))
    wanted = ["reconstruction_error", "saturated_error"]
    assert names(SCENES, see(dead)) == wanted


def test_a_model_that_does_not_see_its_input():
    where = lambda model: model.encoder
    model = small_model(rgb_activation=jax.nn.identity)
    blind = eqx.tree_at(where, model, lambda image: jnp.ones((96, 5)))
    made = see(blind)
    assert names(SCENES, made) == ["reconstruction_error"]
    np.testing.assert_allclose(diagnostics.position_dependence(made), 1, atol=1e-5)


def test_slots_that_begin_alike_stay_alike():
    where = lambda model: model.slot_attention.slot_init.slots
    model = small_model()
    alike = eqx.tree_at(where, model, jnp.ones((3, 7)))
    made = see(alike)
    assert names(made.image, made) == ["undecided_masks"]
    np.testing.assert_allclose(diagnostics.undecided_masks(made), 1, atol=1e-5)


# Mistakes.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: diagnostics.diagnose(SCENES[0], HEALTHY),
            "`images` and `made.image` must both have the shape (batch, channels,"
            " height, width), got (3, 16, 24) and (24, 3, 18, 26). The diagnostics look"
            " at a batch of images and at the mapped model's answer, for example"
            " `jax.vmap(model)(images)`.",
        ),
        (
            lambda: diagnostics.effective_slots(jax.tree.map(lambda x: x[0], HEALTHY)),
            "`made.masks` must have the shape (batch, slots, height, width), got"
            " (7, 18, 26). The diagnostics look at a batch of images and at the mapped"
            " model's answer, for example `jax.vmap(model)(images)`.",
        ),
        (
            lambda: diagnostics.diagnose(
                *jax.tree.map(lambda x: x[:1], (jnp.asarray(IMAGES), HEALTHY))
            ),
            "A diagnosis compares images: give at least 2 (better 32 or more), got 1.",
        ),
        (
            lambda: diagnostics.position_dependence(
                jax.tree.map(lambda x: x[:1], HEALTHY)
            ),
            "A diagnosis compares images: give at least 2 (better 32 or more), got 1.",
        ),
        (
            lambda: diagnostics.diagnose(jnp.asarray(IMAGES).astype(int), HEALTHY),
            "`images` must be floating point, got int32; convert it first, for example"
            " `images.astype(jnp.float32)` (and 0-255 images by `/ 255`).",
        ),
        (
            lambda: diagnostics.diagnose(SCENES, HEALTHY, num_true=4),
            "`segmentation` and `num_true`, the number of labels with the background,"
            " go together; got `num_true`=4 with no segmentation.",
        ),
        (
            lambda: diagnostics.diagnose(SCENES, HEALTHY, segmentation=LABELS),
            "`segmentation` and `num_true`, the number of labels with the background,"
            " go together; got `num_true`=None with a segmentation.",
        ),
        (
            lambda: diagnostics.merged_objects(
                HEALTHY, jnp.asarray(LABELS[0]), num_true=4
            ),
            "`segmentation` must have shape (batch=24, height=18, width=26), got"
            " (18, 26).",
        ),
        (
            lambda: diagnostics.merged_objects(
                HEALTHY, jnp.asarray(LABELS, jnp.float32), num_true=4
            ),
            "`segmentation` must hold integer labels, got float32.",
        ),
        (
            lambda: diagnostics.merged_objects(
                HEALTHY, jnp.asarray(LABELS), num_true=0
            ),
            "`num_true` must be a positive integer, got 0.",
        ),
        (
            lambda: diagnostics.duplicate_slots(HEALTHY, threshold=1.5),
            "`threshold` must lie in [0, 1], got 1.5.",
        ),
        (
            lambda: diagnostics.saturated_error(
                jnp.asarray(IMAGES), HEALTHY, rgb_range=(1.0, 0.0)
            ),
            "`rgb_range` must be (least, largest), got (1.0, 0.0).",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value) == message
