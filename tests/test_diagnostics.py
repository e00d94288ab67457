import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_slots import diagnostics
from eqx_slots.diagnostics import _findings
from eqx_slots.models import Encoder, SlotAutoencoder, SpatialBroadcastDecoder
from eqx_slots.nn import LearnedSlots, SlotAttention

from .failing import (
    BATCH,
    FAILING,
    HEALTHY,
    IMAGES,
    LABELS,
    painted,
    reconstruction,
    shuffled,
    SLOTS,
    stripes,
    TRUTH,
    TURNING,
)
from .helpers import built, run


def names(images, made, **options):
    findings = diagnostics.diagnose(jnp.asarray(images, jnp.float32), made, **options)
    return [finding.name for finding in findings if finding.is_wrong]


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


def test_what_the_background_s_slot_paints_right_is_merged_and_not_lost():
    made = reconstruction(IMAGES, np.where(LABELS == 1, 0, LABELS))
    images = IMAGES + 0.02 * np.random.default_rng(0).normal(size=IMAGES.shape)
    assert names(images, made, **TRUTH) == ["merged_objects"]


def findings(images, made, **options):
    found = diagnostics.diagnose(jnp.asarray(images, jnp.float32), made, **options)
    return {finding.name: finding for finding in found}


def test_findings_are_plain_and_come_in_order():
    found = findings(IMAGES, HEALTHY)
    assert list(found) == [
        "reconstruction_error",
        "saturated_error",
        "undecided_objects",
        "lost_objects",
        "effective_slots",
        "position_dependence",
        "undecided_background",
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
    assert blurred.sentence == "Says little: see `undecided_objects`."


@pytest.mark.parametrize("name", TURNING)
def test_limits_are_where_the_finding_says(name):
    """Masks made by hand so that the number is 5 % below its limit, and 5 % above."""

    def at(part):
        images, made = TURNING[name](part)
        labels = jnp.asarray(np.tile(LABELS, (len(images) // BATCH, 1, 1)))
        truth = {"segmentation": labels, "num_true": 4}
        options = truth if name == "merged_objects" else {}
        return findings(images, made, **options)[name]

    limit, grows = at(0.0).limit, at(0.0).value < at(1.0).value
    for wanted in (0.95 * limit, 1.05 * limit):
        low, high = 0.0, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            below = at(middle).value < wanted
            low, high = (middle, high) if below == grows else (low, middle)
        finding = at(high if grows == (wanted > limit) else low)
        np.testing.assert_allclose(finding.value, wanted, rtol=0.045)
        high_is_wrong = name not in ("effective_slots", "attention_agreement")
        assert finding.is_wrong == ((wanted > limit) == high_is_wrong)


def test_what_cannot_be_told_is_not_wrong():
    busy = np.random.default_rng(0).random(IMAGES.shape)
    background = findings(busy, reconstruction(busy, shuffled(LABELS)))[
        "shared_background"
    ]
    assert np.isnan(background.value)
    assert not background.is_wrong
    assert background.sentence == "Cannot be told from this batch."


def test_labels_tell_the_background_where_colour_does_not():
    busy = np.random.default_rng(0).random(IMAGES.shape)
    found = findings(busy, reconstruction(busy, shuffled(LABELS)), **TRUTH)
    leaked = 0.005 * (SLOTS - 1) / SLOTS
    np.testing.assert_allclose(found["shared_background"].value, leaked, rtol=1e-4)


def test_the_range_of_rgb_is_the_callers():
    wide = lambda x: 2 * x - 1
    made = FAILING["dead"][0]
    made = made._replace(rgb=wide(made.rgb), image=wide(made.image))
    assert names(wide(IMAGES), made) == ["reconstruction_error"]
    wanted = ["reconstruction_error", "saturated_error"]
    assert names(wide(IMAGES), made, rgb_range=(-1.0, 1.0)) == wanted


def test_attention_over_something_else_than_places_is_left_out():
    made = HEALTHY._replace(attention=jnp.ones((BATCH, SLOTS, 5)) / SLOTS)
    assert "attention_agreement" not in findings(IMAGES, made)
    with pytest.raises(ValueError, match="over 5 places is no grid"):
        diagnostics.attention_agreement(made)


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
    assert names(made.image, made) == ["undecided_objects"]
    undecided = diagnostics.undecided_objects(made.image, made)
    np.testing.assert_allclose(undecided, 1, atol=1e-5)


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
