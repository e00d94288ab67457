from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._misc import as_array, check_shape
from ._autoencoder import SlotAutoencoder
from ._decoder import SpatialBroadcastDecoder


# At the very ends of its range a sigmoid, or a tanh, would hardly learn.
EDGE = 0.01


def start_from_colour(
    model: SlotAutoencoder, colour: Float[Array, " channels"]
) -> SlotAutoencoder:
    """A model whose slots all paint about this colour before they have learned any.

    Only the bias of the decoder's last convolution is changed, to what the activation
    of RGB turns into the colour. Given that of the background, no slot has to learn to
    paint it, and fewer runs end with the background shared out among slots. Gray has
    this by itself: in [-1, 1] it is 0, where linear RGB begins.

    **Arguments:**

    - `model`: With a [`eqx_slots.models.SpatialBroadcastDecoder`][] that has
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
    decoder = model.decoder
    if not isinstance(decoder, SpatialBroadcastDecoder):
        raise ValueError(
            "The decoder of `model` must be a `SpatialBroadcastDecoder`, got"
            f" {type(decoder).__name__}; set the bias of its own last layer by"
            " `eqx.tree_at`."
        )
    colour = as_array("colour", colour)
    check_shape("colour", colour, "channels", (decoder.out_channels,))
    bias = decoder.convs[-1].bias
    if bias is None:
        raise ValueError(
            "The last convolution of the decoder has no bias to hold a colour; build it"
            " with `use_bias=True`."
        )
    before = _inverse(decoder.rgb_activation, colour.astype(bias.dtype))
    bias = bias.at[: decoder.out_channels, 0, 0].set(before)
    return eqx.tree_at(lambda m: m.decoder.convs[-1].bias, model, bias)


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
        f" {getattr(activation, '__name__', activation)}; set the bias of its last"
        " convolution by `eqx.tree_at`."
    )
