"""Digests of what computes: equal for equal things, in any process."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqx_slots.data._digest import digest_of_callable

from .test_cached_features import Backbone, half, IMAGES


def scaled(image, factor=2.0):
    return times(image, factor)


def times(image, factor):
    return image * factor if factor else scaled(image)


def test_digests_of_what_computes():
    """Equal for equal things wherever they are, different for all that differs."""
    shift = lambda by: lambda image: image + by
    model = eqx.nn.MLP(3, 2, 5, depth=1, key=jr.key(0))
    different = [
        None,
        Backbone(),
        Backbone(1),
        Backbone(power=2),
        model,
        eqx.tree_at(lambda m: m.layers[0].bias, model, replace_fn=lambda x: x + 1),
        eqx.tree_at(lambda m: m.activation, model, jax.nn.gelu),
        half,
        lambda image: image.sum(),
        lambda image: image.mean(),
        lambda image: [np.sin(x) for x in image],
        lambda image: [np.cos(x) for x in image],
        scaled,
        shift(1),
        shift(2),
        shift(np.ones(3)),
        functools.partial(scaled, factor=3.0),
        functools.partial(scaled, factor=4.0),
        functools.partial(times, 1.0),
        Method.of(1.0),
        Method.of(2.0),
        Method.of(1.0).call,
        Method.of(1.0).other,
        jnp.tanh,
        {"a": 1},
        {"a": [1, 2]},
        {1, 2},
        {1, 3},
        functools.partial(scaled, factor=jr.key(1)),
        functools.partial(scaled, factor=jr.key(2)),
    ]
    digests = [digest_of_callable(x) for x in different]
    assert len(set(digests)) == len(digests)
    same = [
        (Backbone(), Backbone()),
        (shift(1), shift(1)),
        (functools.partial(scaled, factor=3.0), functools.partial(scaled, factor=3.0)),
        (Backbone().__call__, Backbone().__call__),
        (eqx.filter_jit(scaled), eqx.filter_jit(scaled)),
        (model.layers[0], eqx.nn.MLP(3, 2, 5, depth=1, key=jr.key(0)).layers[0]),
        (Method.of(1.0).call, Method.of(1.0).call),
        ("".join, "".join),
        (frozenset([0, 8]), frozenset([8, 0])),  # in another order, as strings are
    ]
    for one, other in same:
        assert digest_of_callable(one) == digest_of_callable(other)
    assert digest_of_callable(scaled) != digest_of_callable(eqx.filter_jit(times))


class Tensor:
    """As PyTorch's, of which NumPy gets nothing before it is detached."""

    def __init__(self, number):
        self.number = number

    def detach(self):
        return self

    def cpu(self):
        return np.asarray(self.number)


class Method:
    weight = None

    def call(self, image):
        return image

    def other(self, image):
        return image + 1

    @classmethod
    def of(cls, weight):
        made = cls()
        made.weight, made.myself = Tensor(weight), made
        return made


NUMBER = np.ones(3)


def with_globals(images):
    return [np.square(scaled(image)) + NUMBER for image in images]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("NUMBER", np.ones(3) + 1),
        ("NUMBER", 1.0),
        ("scaled", lambda image: image / 2),
        ("times", lambda image, factor: image / factor),  # which `scaled` calls
        ("scaled", Backbone()),
    ],
)
def test_what_a_function_takes_by_name_is_part_of_it(monkeypatch, name, other):
    before = digest_of_callable(with_globals)
    monkeypatch.setitem(globals(), name, other)
    assert digest_of_callable(with_globals) != before
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "IMAGES", IMAGES + 1)  # which it does not ask for
    assert digest_of_callable(with_globals) == before


def test_what_a_function_closes_over_may_not_be_there_yet():
    def image_of(image):
        return image * factor

    before = digest_of_callable(image_of)
    factor = 2.0
    assert digest_of_callable(image_of) != before
