"""What the elements of a set are made of, declared once.

An element is one row of numbers in [0, 1]: the properties of an object side by side,
absent objects being rows of zeros. A model predicts such rows, a loss and a metric
compare them, and [`eqx_slots.properties.Properties`][] translates between them and what
they mean.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._misc import check_positive, check_shape


@dataclass(frozen=True)
class Continuous:
    """`size` numbers between `low` and `high`, in whatever unit these have.

    **Arguments:**

    - `name`: What the group is called.
    - `low`, `high`: The range, which becomes [0, 1] in an element. One that is empty or
        not finite is a `ValueError`.
    - `size`: How many numbers, 1 by default.
    """

    name: str
    low: float
    high: float
    size: int = 1

    def __post_init__(self) -> None:
        check_positive(size=self.size)
        if not -np.inf < self.low < self.high < np.inf:
            raise ValueError(
                f"`low` of {self.name!r} must be less than `high`, both finite, got"
                f" {self.low} and {self.high}."
            )


@dataclass(frozen=True)
class Categorical:
    """One of several labels, as a number each (one-hot where it is known).

    **Arguments:**

    - `name`: What the group is called.
    - `labels`: The names of the labels. Fewer than two are a `ValueError`.
    """

    name: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        different = len(set(self.labels))
        if isinstance(self.labels, str) or different < max(2, len(self.labels)):
            raise ValueError(
                f"`labels` of {self.name!r} must be two different names or more, got"
                f" {self.labels!r}."
            )
        object.__setattr__(self, "labels", tuple(self.labels))

    @property
    def size(self) -> int:
        """Numbers in an element: one for each label."""
        return len(self.labels)


@dataclass(frozen=True)
class Presence:
    """Whether there is an object at all: 1, or 0 and then all else is 0 too.

    Its `name` is `"present"` by default.
    """

    name: str = "present"

    @property
    def size(self) -> int:
        """Numbers in an element: one."""
        return 1


_ROUNDING = 1e-5
Group = Continuous | Categorical | Presence
"""What a set element is made of: a part of [`eqx_slots.properties.Properties`][]."""


@dataclass(frozen=True, init=False)
class Properties:
    """The groups of numbers that make up an element, in their order.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots.properties import Categorical, Continuous, Presence, Properties

    weight = Continuous("weight", low=0.0, high=500.0)
    kind = Categorical("kind", ("apple", "pear", "plum"))
    fruit = Properties(weight, kind, Presence())
    rows = fruit.encode({"weight": jnp.array([[150.0]]), "kind": jnp.array([2])})
    print(rows)  # [[0.3 0.  0.  1.  1. ]]
    print(fruit.pad(rows, 7).shape, fruit.decode(rows)["kind"])  # (7, 5) [2]
    print(fruit.describe(rows[0]))  # plum, weight 150, present 1.00
    ```
    """

    groups: tuple[Group, ...]

    def __init__(self, *groups: Group):
        """**Arguments:**

        - `groups`: [`eqx_slots.properties.Continuous`][],
            [`eqx_slots.properties.Categorical`][] and exactly one
            [`eqx_slots.properties.Presence`][], each of another name; anything else is
            a `ValueError`.
        """
        names = [group.name for group in groups]
        presences = sum(isinstance(group, Presence) for group in groups)
        if len(set(names)) < len(names) or presences != 1:
            raise ValueError(
                "`Properties` needs groups of different names, one of them a"
                f" `Presence()`, got {list(groups)}."
            )
        object.__setattr__(self, "groups", groups)

    @property
    def size(self) -> int:
        """Numbers in an element."""
        return sum(group.size for group in self.groups)

    @property
    def presence(self) -> Presence:
        """The group that says whether there is an object."""
        return self.select(Presence)[0]

    def group(self, name: str) -> Any:
        """The group of that name; a `ValueError` lists those there are."""
        for group in self.groups:
            if group.name == name:
                return group
        names = [group.name for group in self.groups]
        raise ValueError(f"There is no group {name!r} among {names}.")

    def select(self, kind: type) -> tuple[Any, ...]:
        """All groups of a kind, `Continuous` for instance, in their order."""
        return tuple(group for group in self.groups if isinstance(group, kind))

    def take(
        self, elements: Float[Array, "*sets size"], name: str
    ) -> Float[Array, "*sets numbers"]:
        """The numbers of one group, as they stand in the elements.

        **Arguments:**

        - `elements`: One or many, their numbers on the last axis.
        - `name`: Of the group.

        **Returns:**

        The same with the numbers of that group alone on the last axis. Elements of
        another width, or a name that is none, are a `ValueError`.
        """
        self._check_width(elements)
        group = self.group(name)
        before = self.groups[: self.groups.index(group)]
        begin = sum(other.size for other in before)
        return elements[..., begin : begin + group.size]

    def encode(
        self,
        values: Mapping[str, Array],
        *,
        present: Bool[Array, "*sets"] | None = None,
    ) -> Float[Array, "*sets size"]:
        """Values to elements.

        **Arguments:**

        - `values`: For each continuous group an array `(..., size)` in its unit, for
            each categorical one an integer array `(...)` that counts in its labels.
        - `present`: Which objects there are; `None` means all. Rows of others are 0.
            (Keyword only argument.)

        **Returns:**

        One element for each object. Groups, shapes and dtypes that do not fit are a
        `ValueError`.
        """
        wanted = {g.name for g in self.groups if not isinstance(g, Presence)}
        if values.keys() != wanted:
            raise ValueError(
                f"`values` must have the groups {sorted(wanted)}, got"
                f" {sorted(values)}; presence is the argument `present`."
            )
        parts = {name: jnp.asarray(value) for name, value in values.items()}
        shape = self._common_shape(parts, present)
        for group in self.select(Continuous):
            share = (parts[group.name] - group.low) / (group.high - group.low)
            parts[group.name] = share
        for group in self.select(Categorical):
            parts[group.name] = jax.nn.one_hot(parts[group.name], group.size)
        parts[self.presence.name] = jnp.ones((*shape, 1))
        row = jnp.concatenate([parts[group.name] for group in self.groups], axis=-1)
        if present is None:
            return row
        return jnp.where(jnp.asarray(present)[..., None], row, 0)

    def decode(self, elements: Float[Array, "*sets size"]) -> dict[str, Array]:
        """Elements to values, the inverse of `encode`.

        **Returns:**

        By name of the group: continuous values `(..., size)` in their unit, the index
        `(...)` of the likeliest label, and of presence the number itself, in [0, 1].
        """
        values = {}
        for group in self.groups:
            part = self.take(elements, group.name)
            if isinstance(group, Continuous):
                values[group.name] = group.low + (group.high - group.low) * part
            elif isinstance(group, Categorical):
                values[group.name] = jnp.argmax(part, axis=-1)
            else:
                values[group.name] = part[..., 0]
        return values

    def pad(
        self, elements: Float[Array, "*sets objects size"], number: int
    ) -> Float[Array, "*sets number size"]:
        """Add absent objects, so that each slot has a row to match.

        **Arguments:**

        - `elements`: The elements of one set or of many.
        - `number`: Rows that a set is to have: the number of slots.

        **Returns:**

        The same with rows of zeros after them. More rows than `number` are a
        `ValueError`.
        """
        self._check_width(elements)
        if elements.ndim < 2:
            raise ValueError("A single element is no set: pad `element[None]`.")
        objects = elements.shape[-2]
        if objects > operator.index(number):
            raise ValueError(
                f"{objects} rows of objects do not fit {number} slots; give the model"
                f" at least num_slots={objects}."
            )
        widths = [(0, 0)] * elements.ndim
        widths[-2] = (0, number - objects)
        return jnp.pad(elements, widths)

    def check(
        self, elements: Float[Array, "*sets objects size"], *, num_slots: int
    ) -> None:
        """Refuse targets that no model could learn; call it before training.

        It looks at values, so it is not for compiled code.

        **Arguments:**

        - `elements`: The targets, of one set or of many.
        - `num_slots`: Slots that the model has. (Keyword only argument.)

        A `ValueError` names the group and the first place of: another width, NaN or
        infinity, presence other than 0 and 1, values outside their range, no label or
        several, an absent object that is not all zeros, and more objects than slots.
        """
        self._check_width(elements)
        elements = jnp.asarray(elements)
        present = np.asarray(self.take(elements, self.presence.name))[..., 0]
        for group in (self.presence, *self.groups):
            part = np.asarray(self.take(elements, group.name))
            _check_group(group, part, present == 1)
        most = int(np.max(np.sum(present, axis=-1), initial=0))
        if most > num_slots:
            raise ValueError(
                f"`{self.presence.name}`: {most} objects in one set are more than"
                f" {num_slots} slots can hold; raise `num_slots`."
            )
        if elements.shape[-2] > num_slots:  # the cheapest would be matched: absent ones
            raise ValueError(
                f"{elements.shape[-2]} rows in a set are more than {num_slots} slots,"
                " so that rows of absent objects would be matched in place of present"
                " ones; leave out rows that are absent, or raise `num_slots`."
            )

    def describe(self, element: Float[Array, " size"]) -> str:
        """One element in words: labels, then numbers. A set is a `ValueError`."""
        call = "[properties.describe(x) for x in {name}]"
        check_shape("element", element, "size", (self.size,), batch=call)
        values = {name: np.asarray(x) for name, x in self.decode(element).items()}
        words = [group.labels[values[group.name]] for group in self.select(Categorical)]
        for group in self.select(Continuous):
            numbers = " x ".join(f"{x:.3g}" for x in values[group.name])
            words.append(f"{group.name} {numbers}")
        name = self.presence.name
        return ", ".join([*words, f"{name} {values[name]:.2f}"])

    def _common_shape(
        self, values: Mapping[str, Array], present: Any
    ) -> tuple[int, ...]:
        """The shape of the sets, which all values have to agree on."""
        shapes = {} if present is None else {"present": np.shape(present)}
        for group in self.groups:
            if isinstance(group, Continuous):
                shape = values[group.name].shape
                if shape[-1:] != (group.size,):
                    raise ValueError(
                        f"`{group.name}` must have shape (..., {group.size}), got"
                        f" {shape}; a single number needs an axis, `x[..., None]`."
                    )
                shapes[group.name] = shape[:-1]
            elif isinstance(group, Categorical):
                if not jnp.issubdtype(values[group.name].dtype, jnp.integer):
                    raise ValueError(
                        f"`{group.name}` must hold integers that count in its labels,"
                        f" got {values[group.name].dtype}."
                    )
                shapes[group.name] = values[group.name].shape
        if len(set(shapes.values())) != 1:
            raise ValueError(
                "`values` and `present` must describe the same objects, got shapes of"
                f" sets {shapes}."
            )
        return next(iter(shapes.values()))

    def _check_width(self, elements: Any) -> None:
        if np.ndim(elements) < 1 or np.shape(elements)[-1] != self.size:
            parts = " + ".join(f"{group.name} {group.size}" for group in self.groups)
            raise ValueError(
                f"Elements must have {self.size} numbers each ({parts}), got shape"
                f" {np.shape(elements)}."
            )


def _check_group(group: Group, part: np.ndarray, present: np.ndarray) -> None:
    """Refuse values of one group, the numbers standing on the last axis."""
    if isinstance(group, Presence):
        wrong, demand = (part != 0) & (part != 1), "must be 0 or 1"
    elif isinstance(group, Continuous):
        inside = (part >= -_ROUNDING) & (part <= 1 + _ROUNDING)
        wrong = present[..., None] & ~inside
        demand = f"must lie in [0, 1], for values from {group.low} to {group.high}"
    else:
        is_hot = ((part == 0) | (part == 1)) & (part.sum(axis=-1, keepdims=True) == 1)
        wrong, demand = present[..., None] & ~is_hot, "must be 1 at one label, else 0"
    absent = ~present[..., None] & (part != 0)
    if not isinstance(group, Presence) and not wrong.any() and absent.any():
        wrong, demand = absent, "must be 0 where no object is present"
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0][:-1])
        raise ValueError(
            f"`{group.name}` of element {place} {demand}, got {part[place].tolist()}."
        )


CLEVR = Properties(
    Continuous("coordinates", low=-3.0, high=3.0, size=3),
    Categorical("size", ("small", "large")),
    Categorical("material", ("rubber", "metal")),
    Categorical("shape", ("cube", "sphere", "cylinder")),
    Categorical(
        "colour",
        ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    ),
    Presence(),
)
"""An object of CLEVR as the paper's official code predicts it: 19 numbers."""

BLOCKS = Properties(
    Continuous("centre", low=0.0, high=6.0, size=2),
    Continuous("size", low=0.0, high=6.0, size=2),
    Categorical("colour", ("red", "green", "blue", "yellow", "magenta", "cyan")),
    Presence(),
)
"""A block of [`eqx_slots.data.blocks`][] in its default colours: 11 numbers. Centre and
size are `(y, x)` in a unit of which an image is 6 high and 6 wide."""
