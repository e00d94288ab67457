import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqx_slots.data import blocks
from eqx_slots.properties import (
    BLOCKS,
    Categorical,
    CLEVR,
    Continuous,
    Presence,
    Properties,
)

from .helpers import assert_close


FRUIT = Properties(
    Categorical("kind", ("apple", "pear", "plum")),
    Continuous("weight", low=100.0, high=500.0),
    Presence("there"),
    Continuous("place", low=-1.0, high=1.0, size=2),
)
VALUES = {
    "kind": jnp.array([2, 0]),
    "weight": jnp.array([[150.0], [500.0]]),
    "place": jnp.array([[0.0, -1.0], [1.0, 0.5]]),
}
KEY = jax.random.key(0)
ROWS = np.array([[0, 0, 1, 0.125, 1, 0.5, 0], [1, 0, 0, 1, 1, 1, 0.75]])


def test_elements_are_the_groups_side_by_side():
    assert FRUIT.size == 7
    assert_close(FRUIT.encode(VALUES), ROWS)
    there = jnp.array([True, False])
    assert_close(FRUIT.encode(VALUES, present=there), ROWS * [[1], [0]])


def test_decoding_is_the_inverse():
    values = jax.jit(FRUIT.decode)(jnp.asarray(ROWS, jnp.float32))
    np.testing.assert_array_equal(values["kind"], VALUES["kind"])
    assert_close(values["weight"], VALUES["weight"])
    assert_close(values["place"], VALUES["place"])
    np.testing.assert_array_equal(values["there"], [1, 1])


def test_the_likeliest_label_is_taken():
    row = jnp.array([0.1, 0.6, 0.3, 0.5, 0.4, 0.5, 0.5])
    values = FRUIT.decode(row)
    assert int(values["kind"]) == 1
    assert float(values["there"]) == np.float32(0.4)


def test_in_words():
    row = jnp.asarray(ROWS[0], jnp.float32)
    assert FRUIT.describe(row) == "plum, weight 150, place 0 x -1, there 1.00"


def test_padding_adds_absent_objects():
    rows = jnp.asarray(ROWS, jnp.float32)
    padded = FRUIT.pad(jnp.stack([rows, rows]), 3)
    want = np.concatenate([ROWS, np.zeros((1, 7))])
    np.testing.assert_array_equal(padded, np.stack([want, want]).astype(np.float32))
    with pytest.raises(ValueError, match="2 rows of objects do not fit 1 slots"):
        FRUIT.pad(rows, 1)


def test_published_and_painted_elements_have_their_widths():
    assert (CLEVR.size, BLOCKS.size) == (19, 11)
    assert [group.size for group in CLEVR.groups] == [3, 2, 2, 3, 8, 1]
    assert BLOCKS.group("colour").labels == tuple(blocks.COLOURS)


def test_painted_scenes_as_elements():
    scene = blocks.scene(jax.random.key(3), image_size=(20, 40), num_objects=(2, 4))
    values = BLOCKS.decode(blocks.elements(scene))
    truth, present = scene.objects, np.asarray(scene.objects.present)
    assert 2 <= present.sum() < 4  # so that there is an absent one
    np.testing.assert_array_equal(values["present"], present)
    np.testing.assert_array_equal(values["colour"], truth.colour)
    pixels = np.array([[20, 40]]) / 6
    for name, want in (("centre", truth.centre), ("size", truth.size)):
        assert_close(
            np.asarray(values[name]) * pixels, np.where(present[:, None], want, 0)
        )


def test_good_targets_are_let_through():
    rows = FRUIT.pad(jnp.asarray(ROWS, jnp.float32), 4)
    FRUIT.check(rows, num_slots=4)
    FRUIT.check(jnp.stack([rows, rows]), num_slots=5)
    narrow = Properties(Continuous("x", -1.0, -0.9), Presence())
    at_its_bound = narrow.encode({"x": jnp.array([[-0.9]])})
    assert float(at_its_bound[0, 0]) != 1  # rounded
    narrow.check(at_its_bound, num_slots=1)


def changed(place, value):
    rows = FRUIT.pad(jnp.asarray(ROWS, jnp.float32), 3)
    return rows.at[place].set(value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            changed((1, 4), 0.5),
            r"`there` of element \(1,\) must be 0 or 1, got \[0.5\]",
        ),
        (changed((1, 4), jnp.nan), r"`there` of element \(1,\) must be 0 or 1"),
        (changed((0, 3), jnp.nan), r"`weight` of element \(0,\) must lie in \[0, 1\],"),
        (
            changed((0, 6), 1.5),
            r"`place` .* from -1.0 to 1.0, got \[0.5, 1.5\]",
        ),
        (changed((0, 5), -0.5), r"`place` of element \(0,\) must lie in"),
        (changed((1, 1), 1), r"`kind` of element \(1,\) must be 1 at one label"),
        (changed((1, 0), 0), r"`kind` of element \(1,\) must be 1 at one label"),
        (changed((1, 0), jnp.nan), r"`kind` of element \(1,\) must be 1 at one label"),
        (changed((2, 3), 0.5), r"`weight` of element \(2,\) must be 0 where no object"),
        (changed((2, 3), jnp.nan), r"`weight` of element \(2,\) must be 0 where no"),
        (jnp.zeros((3, 6)), r"7 numbers each \(kind 3 \+ weight 1 \+ there 1 \+ place"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_bad_targets_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        FRUIT.check(rows, num_slots=3)


@pytest.mark.usefixtures("as_users_run")
def test_more_objects_than_slots():
    rows = jnp.stack([changed((2, 4), 0), changed((1, 4), 1)])
    with pytest.raises(ValueError, match="2 objects in one set are more than 1 slots"):
        FRUIT.check(rows, num_slots=1)
    with pytest.raises(ValueError, match="3 rows in a set are more than 2 slots, so"):
        FRUIT.check(rows, num_slots=2)


@pytest.mark.usefixtures("as_users_run")
def test_labels_may_be_a_list():
    kind = Categorical("kind", ["a", "b"])
    assert hash(kind) == hash(Categorical("kind", ("a", "b")))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Properties(Continuous("a", 0.0, 1.0)), "one of them a `Presence"),
        (lambda: Properties(Presence(), Presence("b")), "one of them a `Presence"),
        (
            lambda: Properties(Presence("a"), Continuous("a", 0.0, 1.0)),
            "different names",
        ),
        (lambda: Continuous("a", 1.0, 1.0), "`low` of 'a' must be less than `high`"),
        (
            lambda: Continuous("a", 0.0, 1.0, size=0),
            "`size` must be a positive integer",
        ),
        (lambda: Categorical("a", ("b",)), "`labels` of 'a' must be two different"),
        (lambda: Categorical("a", "bc"), "`labels` of 'a' must be two different"),
        (lambda: Categorical("a", ("b", "b", "c")), "must be two different names"),
        (lambda: FRUIT.group("colour"), "no group 'colour' among .*'there', 'place'"),
        (lambda: FRUIT.encode({"kind": jnp.array([1])}), r"\['kind', 'place', 'weigh"),
        (lambda: Continuous("a", 0.0, np.inf), "both finite, got 0.0 and inf"),
        (lambda: Categorical("a", ("b", "b")), "`labels` of 'a' must be two different"),
        (lambda: FRUIT.pad(jnp.zeros(7), 3), r"no set: pad `element\[None\]`"),
        (
            lambda: FRUIT.encode(VALUES | {"weight": jnp.zeros(2)}),
            r"`weight` must have shape \(..., 1\), got \(2,\); .* `x\[..., None\]`",
        ),
        (
            lambda: FRUIT.encode(VALUES | {"place": jnp.zeros((2, 3))}),
            r"`place` must have shape \(..., 2\), got \(2, 3\)",
        ),
        (
            lambda: FRUIT.encode(VALUES | {"kind": jnp.zeros(2)}),
            "`kind` must hold integers that count in its labels, got float32",
        ),
        (
            lambda: FRUIT.encode(VALUES, present=[True]),
            r"must describe the same objects, got .*'present': \(1,\)",
        ),
        (
            lambda: FRUIT.encode(VALUES | {"more": jnp.zeros(2)}),
            r"must have the groups \['kind', 'place', 'weight'\], got",
        ),
        (
            lambda: blocks.elements(jax.vmap(blocks.scene)(jax.random.split(KEY))),
            r"did you mean `jax.vmap\(blocks.elements\)\(scenes\)`",
        ),
        (lambda: FRUIT.describe(jnp.zeros((2, 7))), r"`element` must have shape"),
        (lambda: FRUIT.take(jnp.float32(1), "kind"), r"7 numbers each"),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
