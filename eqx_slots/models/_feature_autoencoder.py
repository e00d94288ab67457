from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from einops import rearrange
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from .._misc import (
    accumulator_dtype,
    as_array,
    cast,
    check_floating,
    check_key,
    check_positive,
    check_shape,
)
from ..nn import SlotAttention
from ._decoded_features import linear, over_rows


class FeatureReconstruction(NamedTuple):
    """What a [`eqx_slots.models.FeatureAutoencoder`][] makes of one set of features.

    **Fields:**

    - `features`: The features, made anew of the slots, `inputs width`.
    - `masks`: The decoder's: the share of each slot in each feature, `slots inputs`.
        They sum to 1 over the slots.
    - `slots`: The slots after the last round, `slots slot_size`.
    - `attention`: That of the last round, `slots inputs`.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_eval_shape(presets.dinosaur, key=jr.key(0))  # shapes alone
    enlarged = lambda model, tokens: model(tokens, key=jr.key(1)).masks_at((320, 320))
    masks = eqx.filter_eval_shape(enlarged, model, jnp.ones((196, 384)))
    print(masks.shape)  # (7, 320, 320)
    ```
    """

    features: Float[Array, "inputs width"]
    masks: Float[Array, "slots inputs"]
    slots: Float[Array, "slots slot_size"]
    attention: Float[Array, "slots inputs"]

    def masks_at(
        self,
        image_size: tuple[int, int],
        *,
        grid_size: tuple[int, int] | None = None,
    ) -> Float[Array, "slots height width"]:
        """The decoder's masks in the size of an image, to look at and to score.

        Bilinear between the middles of the patches, of the shares themselves: the slot
        of a pixel is `jnp.argmax(masks, axis=0)`, after enlarging and not before.

        **Arguments:**

        - `image_size`: Height and width wanted.
        - `grid_size`: Rows and columns of patches; `None` means those in which patches
            are squares, 14 x 14 of 196 for a square image. (Keyword only argument.)

        **Returns:**

        Masks that sum to 1 over the slots at each pixel. A grid that is not as large as
        the masks is a `ValueError`.
        """
        height, width = image_size
        check_positive(height=height, width=width)
        batch = "jax.vmap(lambda made: made.masks_at(image_size))(made)"
        check_shape("masks", self.masks, "slots inputs", (-1, -1), batch=batch)
        inputs = self.masks.shape[1]
        if grid_size is None:
            rows = max(round((inputs * height / width) ** 0.5), 1)
            grid_size = rows, inputs // rows
        rows, columns = grid_size
        if rows * columns != inputs:
            raise ValueError(
                f"{inputs} masks are no grid of {rows} x {columns} over an image of"
                f" {height} x {width}: pass rows and columns of patches as `grid_size`."
            )
        wide = self.masks.astype(accumulator_dtype(self.masks.dtype))
        grid = rearrange(wide, "slots (h w) -> slots h w", h=rows)
        large = jax.image.resize(grid, (grid.shape[0], height, width), "bilinear")
        return large.astype(self.masks.dtype)


class FeatureProjection(eqx.Module):
    """LayerNorm and a small MLP for each feature: what slot attention is to see of it.

    It gives the features of a frozen backbone a chance to become what slots can part
    (DINOSAUR, Seitzer et al. 2023).

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import FeatureProjection

    project = FeatureProjection(384, 256, key=jr.key(0))
    print(project(jnp.ones((196, 384))).shape)  # (196, 256)
    ```
    """

    norm: eqx.nn.LayerNorm
    layers: tuple[eqx.nn.Linear, eqx.nn.Linear]
    activation: Callable[[Array], Array]
    feature_size: int = eqx.field(static=True)

    def __init__(
        self,
        feature_size: int,
        input_size: int,
        *,
        hidden_size: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.relu,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `feature_size`: Width of a feature of the backbone.
        - `input_size`: Width of an input of the layer.
        - `hidden_size`: Of the MLP; `None` means `feature_size`, as DINOSAUR; VideoSAUR
            and FT-DINOSAUR have twice that. (Keyword only argument, as all that
            follow.)
        - `activation`: Function between its two layers.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        hidden_size = feature_size if hidden_size is None else hidden_size
        check_key(key)
        check_positive(
            feature_size=feature_size, input_size=input_size, hidden_size=hidden_size
        )
        first_key, last_key = jr.split(key)
        self.norm = eqx.nn.LayerNorm(feature_size, dtype=dtype)
        self.layers = (
            linear(feature_size, hidden_size, dtype=dtype, key=first_key),
            linear(hidden_size, input_size, dtype=dtype, key=last_key),
        )
        self.activation = activation
        self.feature_size = feature_size

    def __call__(
        self, features: Float[Array, "inputs {self.feature_size}"]
    ) -> Float[Array, "inputs input_size"]:
        """**Arguments:**

        - `features`: Those of one image; `jax.vmap` maps a batch.

        **Returns:**

        As many inputs. Features of another width, or of integers, are a `ValueError`.
        """
        features = as_array("features", features)
        check_floating("features", features)
        check_shape("features", features, _AXES, (-1, self.feature_size), batch=_MAPPED)
        project = cast(self, features.dtype)
        first, last = project.layers
        hidden = over_rows(first, jax.vmap(project.norm)(features))
        return over_rows(last, self.activation(hidden))


class FeatureAutoencoder(eqx.Module):
    """Finds objects in the features of a backbone, without labels.

    A small MLP, slot attention, and a decoder that makes the features anew from the
    slots; trained on nothing but the squared error of the raw features (DINOSAUR,
    Seitzer et al. 2023). The backbone is not part of it: features come from anywhere,
    once, and are kept ([`eqx_slots.data.features.cached`][]).

    **Example:**

    ```python
    import equinox as eqx
    import jax.random as jr
    from eqx_slots import losses, nn
    from eqx_slots.models import FeatureAutoencoder, FeatureProjection, PatchDecoder

    project_key, layer_key, decoder_key = jr.split(jr.key(0), 3)
    project = FeatureProjection(24, 32, key=project_key)
    layer = nn.SlotAttention(32, 32, num_slots=5, key=layer_key)
    decoder = PatchDecoder(32, 24, 16, hidden_sizes=(64,), key=decoder_key)
    model = FeatureAutoencoder(project, layer, decoder)
    tokens = jr.normal(jr.key(1), (16, 24))  # of 4 x 4 patches
    made = eqx.filter_jit(model)(tokens, key=jr.key(2))
    print(losses.mean_squared_error(made.features, tokens).shape)  # ()
    print(made.masks_at((56, 56)).shape)  # (5, 56, 56)
    ```
    """

    project: Callable[[Array], Array]
    slot_attention: SlotAttention
    decoder: Callable[..., tuple[Array, Array]]

    def __init__(
        self,
        project: Callable[[Array], Array],
        slot_attention: SlotAttention,
        decoder: Callable[..., tuple[Array, Array]],
    ):
        """**Arguments:**

        - `project`: From the features to the layer's inputs, as
            [`eqx_slots.models.FeatureProjection`][].
        - `slot_attention`: The layer.
        - `decoder`: Slots to features and masks, called as
            `decoder(slots, features=features, attention=attention, key=key)`, and with
            `slot_mask` where there is one: [`eqx_slots.models.PatchDecoder`][],
            [`eqx_slots.models.AutoregressiveDecoder`][] or
            [`eqx_slots.models.SlotMixer`][].

        [`eqx_slots.models.presets.dinosaur`][] is the published combination.
        """
        self.project = project
        self.slot_attention = slot_attention
        self.decoder = decoder

    def __call__(
        self,
        features: Float[Array, "inputs width"],
        *,
        target: Float[Array, "inputs target_width"] | None = None,
        slots: Float[Array, "slots slot_size"] | None = None,
        num_slots: int | None = None,
        num_iters: int | None = None,
        slot_mask: Bool[Array, " slots"] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> FeatureReconstruction:
        """**Arguments:**

        - `features`: Those of one image; `jax.vmap` maps a batch.
        - `target`: What is to be made, for decoders that are shown it; `None` means
            `features`. With a backbone that is tuned it is what the frozen one gives.
            No gradient flows to it. (Keyword only argument, as all that follow.)
        - `slots`, `num_slots`, `num_iters`, `slot_mask`: As for
            [`eqx_slots.nn.SlotAttention`][]; a masked slot has no share in anything.
        - `key`: Randomness of the initial slots and of the decoder.

        **Returns:**

        A [`eqx_slots.models.FeatureReconstruction`][]. What the parts refuse, such as a
        missing key, is a `ValueError`.
        """
        features = as_array("features", features)
        check_floating("features", features)
        check_shape("features", features, _AXES, (-1, -1), batch=_MAPPED)
        slots_key = decoder_key = None
        if key is not None:
            check_key(key)
            slots_key, decoder_key = jr.split(key)
        state = self.slot_attention(
            self.project(features),
            slots=slots,
            num_slots=num_slots,
            num_iters=num_iters,
            slot_mask=slot_mask,
            key=slots_key,
        )
        target = features if target is None else jnp.asarray(target)
        made, masks = self.decoder(
            state.slots,
            features=jax.lax.stop_gradient(target),
            attention=state.attention,
            key=decoder_key,
            **({} if slot_mask is None else {"slot_mask": jnp.asarray(slot_mask)}),
        )
        return FeatureReconstruction(made, masks, state.slots, state.attention)


_AXES = "inputs feature_size"
_MAPPED = "jax.vmap(model)({name})"
