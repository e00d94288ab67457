from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._misc import as_array, check_shape
from ._autoencoder import SlotAutoencoder
from ._decoder import SpatialBroadcastDecoder
from ._standardization import Standardization
from ._video import SlotVideo


_Model = TypeVar("_Model", SlotAutoencoder, SlotVideo)
# At the very ends of its range a sigmoid, or a tanh, would hardly learn.
EDGE = 0.01


def start_from_images(
    model: _Model, images: Float[Array, "batch channels height width"]
) -> _Model:
    """A model for images like these, that begins by painting their background alone.

    It sees them through the [`eqx_slots.models.Standardization`][] of the images, and
    the last convolution of its decoder begins at zero. So the first picture is plain
    background and its error no larger than the objects: a random first picture is worse
    than none, and flattening it in the first steps can kill the units that small
    objects would need. The background is also what fewer slots then share.

    **Arguments:**

    - `model`: A [`eqx_slots.models.SlotAutoencoder`][], or a
        [`eqx_slots.models.SlotVideo`][] of pictures, with a
        [`eqx_slots.models.SpatialBroadcastDecoder`][] of linear RGB
        (`rgb_activation=jax.nn.identity`). What `standardization` it has is replaced.
    - `images`: A batch of what it will be trained on, in any range; of videos some
        frames, such as `videos[:, 0]`.

    **Returns:**

    The model, new. A `ValueError` says if its decoder is another or its RGB not linear.

    **Example:**

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.data import blocks
    from eqx_slots.models import presets, start_from_images

    images = jax.jit(jax.vmap(blocks.scene))(jr.split(jr.key(0), 32)).image
    model = eqx.filter_jit(presets.blocks)(key=jr.key(1))
    model = start_from_images(model, images)
    made = eqx.filter_jit(model)(images[0])
    print(jnp.allclose(made.image, 0.5, atol=1e-3))  # True
    ```
    """
    decoder = _check_decoder(model)
    if decoder.rgb_activation is not jax.nn.identity:
        raise ValueError(
            "The decoder must paint linear RGB (`rgb_activation=jax.nn.identity`) for"
            " standardized images, which have no fixed range, got"
            f" {_name(decoder.rgb_activation)}; for its background alone there is"
            " `start_from_colour`."
        )
    standardization = Standardization.of(images)
    channels = len(standardization.center)
    if channels != decoder.out_channels:
        raise ValueError(
            f"`images` must have the decoder's {decoder.out_channels} channels, got"
            f" {channels}."
        )
    last = decoder.convs[-1]
    return eqx.tree_at(
        lambda m: (m.standardization, m.decoder.convs[-1]),
        model,
        (standardization, jax.tree.map(jnp.zeros_like, last)),
        is_leaf=lambda x: x is None,
    )


def start_from_colour(model: _Model, colour: Float[Array, " channels"]) -> _Model:
    """A model whose slots all paint about this colour before they have learned any.

    Only the bias of the decoder's last convolution is changed, to what the activation
    of RGB turns into the colour. Given that of the background, no slot has to learn to
    paint it, and fewer runs end with the background shared out among slots. Gray has
    this by itself: in [-1, 1] it is 0, where linear RGB begins.

    **Arguments:**

    - `model`: An autoencoder or a [`eqx_slots.models.SlotVideo`][], with a
        [`eqx_slots.models.SpatialBroadcastDecoder`][] that has
        `jax.nn.identity`, `jax.nn.sigmoid` or `jax.numpy.tanh` as `rgb_activation`.
    - `colour`: In the range of the images. The median over the pixels of some images
        is the colour of most backgrounds. To a sigmoid, values nearer than 0.01 to an
        end of its range are 0.01 from it; the same for tanh.

    **Returns:**

    The model, new. A `ValueError` says if its decoder is another, or its activation, if
    the last convolution has no bias, or if there is not one number for each channel.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets, start_from_colour

    model = eqx.filter_jit(presets.blocks)(key=jr.key(0))
    images = -jnp.ones((32, 3, 32, 32))  # black, in [-1, 1]
    model = start_from_colour(model, jnp.median(images, axis=(0, 2, 3)))
    print(eqx.filter_jit(model)(images[0]).image.mean() < -0.9)  # True
    ```
    """
    decoder = _check_decoder(model)
    colour = as_array("colour", colour)
    check_shape("colour", colour, "channels", (decoder.out_channels,))
    bias = decoder.convs[-1].bias
    if bias is None:
        raise ValueError(
            "The last convolution of the decoder has no bias to hold a colour; build it"
            " with `use_bias=True`."
        )
    colour = colour.astype(bias.dtype)
    if model.standardization is not None:
        colour = model.standardization(colour[:, None, None])[:, 0, 0]
    before = _inverse(decoder.rgb_activation, colour)
    bias = bias.at[: decoder.out_channels, 0, 0].set(before)
    return eqx.tree_at(lambda m: m.decoder.convs[-1].bias, model, bias)


def _check_decoder(model: SlotAutoencoder | SlotVideo) -> SpatialBroadcastDecoder:
    decoder = model.decoder
    if not isinstance(decoder, SpatialBroadcastDecoder):
        raise ValueError(
            "The decoder of `model` must be a `SpatialBroadcastDecoder`, got"
            f" {type(decoder).__name__}; set its own last layer by `eqx.tree_at`."
        )
    return decoder


def _name(activation: Callable[[Array], Array]) -> str:
    return getattr(activation, "__name__", str(activation))


def _inverse(activation: Callable[[Array], Array], colour: Array) -> Array:
    if activation is jax.nn.identity:
        return colour
    if activation is jax.nn.sigmoid:
        return jax.scipy.special.logit(jnp.clip(colour, EDGE, 1 - EDGE))
    if activation is jnp.tanh:
        return jnp.arctanh(jnp.clip(colour, EDGE - 1, 1 - EDGE))
    raise ValueError(
        "`rgb_activation` of the decoder must be `jax.nn.identity`, `jax.nn.sigmoid` or"
        " `jax.numpy.tanh`, whose inverses are known, got"
        f" {_name(activation)}; set the bias of its last"
        " convolution by `eqx.tree_at`."
    )
