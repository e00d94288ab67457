"""Models that are trained already: a name in, a model out, and nothing downloaded.

Each is two files in `weights/`: `NAME.eqx`, its arrays one after the other as NumPy
writes them, those of floating point in float16, and `NAME.json`, what builds it, how it
was trained, what it scores, and a digest of both. `tests/weights.py` makes them.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._misc import digest_of, is_array
from . import presets


WEIGHTS = Path(__file__).with_name("weights")
Card = dict[str, Any]


class ModelCard(NamedTuple):
    """How a model of [`eqx_slots.models.pretrained`][] was trained, and what it can do.

    **Fields:**

    - `command`: What trained it, in a copy of the repository.
    - `seed`: Of that run.
    - `scores`: By name, on scenes that it was not trained on, of the weights as they
        are stored.
    - `image_size`: Height and width of its images.
    - `channels`: Of its images.
    - `image_range`: Least and largest value of an image.
    - `quantiles`: What its own images are like, by which `examples/segment.py` names
        those of another kind: the first percent, the median and the last of each
        figure. Empty for a model that predicts sets.

    **Example:**

    ```python
    from eqx_slots.models import model_card

    card = model_card("blocks")
    print(card.command, card.image_size)  # python examples/autoencoder.py (32, 32)
    ```
    """

    command: str
    seed: int
    scores: dict[str, float]
    image_size: tuple[int, int]
    channels: int
    image_range: tuple[float, float]
    quantiles: dict[str, list[float]]


def pretrained(name: str) -> Any:
    """A model that is trained already; its weights come with the package.

    **Arguments:**

    - `name`: `"blocks"`: the default example's, for two to four blocks on gray,
        32 x 32; `"tetrominoes"`: for three pieces on black, 35 x 35; `"solids"`: for
        three to six solids, 64 x 64; or `"solid_sets"`, which tells what these are; all
        in [-1, 1]. Another is a `ValueError` that lists those there are.

    **Returns:**

    The model, in float32: a [`eqx_slots.models.SlotAutoencoder`][], or for sets a
    [`eqx_slots.models.SlotSetPredictor`][]. The weights are stored in float16, and
    [`eqx_slots.models.model_card`][] has the scores of these. A file that has changed
    is a `ValueError`.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.data import blocks
    from eqx_slots.models import pretrained

    model = pretrained("blocks")
    scene = jax.jit(blocks.scene)(jr.key(0))
    made = eqx.filter_jit(model)(2 * scene.image - 1)
    print(made.masks.shape, made.masks.dtype)  # (7, 32, 32) float32
    print(jnp.mean((made.image - (2 * scene.image - 1)) ** 2) < 0.01)  # True
    ```
    """
    return restored(*_read(name))


def model_card(name: str) -> ModelCard:
    """How a model of [`eqx_slots.models.pretrained`][] was trained, and what it scores.

    **Arguments:**

    - `name`: As there.

    **Returns:**

    [`eqx_slots.models.ModelCard`][].

    **Example:**

    ```python
    from eqx_slots.models import model_card

    card = model_card("blocks")
    print(card.scores["fg_ari"] > 0.95)  # True
    ```
    """
    card, _ = _read(name)
    fields = {field: card[field] for field in ModelCard._fields}
    for field in ("image_size", "image_range"):
        fields[field] = tuple(fields[field])
    return ModelCard(**fields)


def _read(name: str) -> tuple[Card, bytes]:
    """What is said of a model, and its arrays, if both are as they were made."""
    names = sorted(path.stem for path in WEIGHTS.glob("*.json"))
    if name not in names:
        listed = ", ".join(f'"{each}"' for each in names)
        raise ValueError(f"`name` must be one of {listed}, got {name!r}.")
    leaves = (WEIGHTS / f"{name}.eqx").read_bytes()
    try:
        card: Card = json.loads((WEIGHTS / f"{name}.json").read_bytes())
    except ValueError:  # what has changed may be no JSON any more
        card = {}
    stated = card.pop("sha256", None)
    if (found := digest(card, leaves)) != stated:
        raise ValueError(
            f"The files of {name!r} in {WEIGHTS} were changed: their SHA-256 digest"
            f" should be {stated}, found {found}; install eqx_slots again."
        )
    return card, leaves


def digest(card: Mapping[str, Any], leaves: bytes) -> str:
    """SHA-256 of all that is stored, but for itself."""
    return digest_of(dict(card), {"leaves": np.frombuffer(leaves, np.uint8)})


def restored(card: Card, leaves: bytes) -> Any:
    """The model that a card says, with the arrays of a file."""
    make = getattr(presets, card["make"])
    build = lambda key: make(**card["arguments"], key=key)
    blueprint = eqx.filter_eval_shape(build, jr.key(0))
    return eqx.tree_deserialise_leaves(io.BytesIO(leaves), blueprint, filter_spec=_leaf)


def _leaf(file: io.BytesIO, like: Any) -> Any:
    return jnp.asarray(np.load(file).astype(like.dtype)) if is_array(like) else like
