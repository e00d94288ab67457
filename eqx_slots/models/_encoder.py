from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.random as jr
from einops import einsum, rearrange
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from .._misc import (
    as_array,
    cast,
    check_floating,
    check_key,
    check_positive,
    check_shape,
)
from ..convolution import convolve_last
from ..nn import SoftPositionEmbedding


class Encoder(eqx.Module):
    """An image becomes a set of feature vectors, one for each place.

    Convolutions with ReLU, a soft position embedding, then for each place alone a
    LayerNorm and a small MLP (Locatello et al. 2020, appendix E). Strides make fewer
    places: a side of `H` pixels has `H / product of strides` of them, rounded up.

    **Example:**

    ```python
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import Encoder

    encoder = Encoder(32, strides=(2, 2), key=jr.key(0))
    print(encoder(jnp.zeros((3, 32, 32))).shape)  # (64, 32)
    ```
    """

    convs: tuple[eqx.nn.Conv2d, ...]
    positions: SoftPositionEmbedding
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP
    activation: Callable[[Array], Array]
    in_channels: int = eqx.field(static=True)
    feature_size: int = eqx.field(static=True)

    def __init__(
        self,
        hidden_size: int,
        *,
        feature_size: int | None = None,
        mlp_size: int | None = None,
        in_channels: int = 3,
        strides: Sequence[int] = (1, 1, 1, 1),
        kernel_size: int = 5,
        activation: Callable[[Array], Array] = jax.nn.relu,
        grid: Literal["paper", "savi"] = "paper",
        layer_norm_eps: float = 1e-3,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        """**Arguments:**

        - `hidden_size`: Channels of each convolution.
        - `feature_size`: Width of each feature vector; `None` means `hidden_size`.
            (Keyword only argument, as all that follow.)
        - `mlp_size`: Hidden width of the MLP; `None` means `hidden_size`.
        - `in_channels`: Channels of the image.
        - `strides`: One convolution for each.
        - `kernel_size`: Side of the square kernels.
        - `activation`: Function after each convolution. With ReLU, the paper's, large
            steps can leave a layer without any unit that answers to some colour, and
            objects of that colour are background for good; `jax.nn.leaky_relu` lets
            them come back.
        - `grid`: As for [`eqx_slots.nn.SoftPositionEmbedding`][].
        - `layer_norm_eps`: Epsilon of the LayerNorm.
        - `dtype`: Of the parameters; `None` is JAX's default.
        - `key`: Randomness for initialisation.
        """
        feature_size = hidden_size if feature_size is None else feature_size
        mlp_size = hidden_size if mlp_size is None else mlp_size
        check_key(key)
        check_positive(
            hidden_size=hidden_size,
            feature_size=feature_size,
            mlp_size=mlp_size,
            in_channels=in_channels,
            kernel_size=kernel_size,
        )
        if len(strides) == 0:
            raise ValueError(
                "`strides` is empty; give one stride for each convolution."
            )
        position_key, mlp_key, *conv_keys = jr.split(key, 2 + len(strides))
        convs, channels = [], in_channels
        for stride, conv_key in zip(strides, conv_keys):
            check_positive(stride=stride)
            convs.append(
                eqx.nn.Conv2d(
                    channels,
                    hidden_size,
                    kernel_size,
                    stride,
                    padding="SAME",
                    dtype=dtype,
                    key=conv_key,
                )
            )
            channels = hidden_size
        self.convs = tuple(convs)
        self.positions = SoftPositionEmbedding(
            hidden_size, grid=grid, dtype=dtype, key=position_key
        )
        self.norm = eqx.nn.LayerNorm(hidden_size, eps=layer_norm_eps, dtype=dtype)
        self.mlp = eqx.nn.MLP(
            hidden_size, feature_size, mlp_size, depth=1, dtype=dtype, key=mlp_key
        )
        self.activation = activation
        self.in_channels = in_channels
        self.feature_size = feature_size

    def __call__(
        self, image: Float[Array, "{self.in_channels} height width"]
    ) -> Float[Array, "inputs {self.feature_size}"]:
        """**Arguments:**

        - `image`: One image, channels first; `jax.vmap` maps a batch. Weights are cast
            to its dtype.

        **Returns:**

        The features row by row: place `(i, j)` of a map of width `W` is row
        `i * W + j`.
        """
        features = as_array("image", image)
        check_floating("image", features)
        check_shape(
            "image",
            features,
            "channels height width",
            (self.in_channels, -1, -1),
            otherwise="An encoder for other channels is `Encoder(in_channels=...)`.",
        )
        encoder = cast(self, features.dtype)
        features = rearrange(features, "c h w -> h w c")
        for conv in encoder.convs:
            features = self.activation(convolve_last(conv, features))
        features = rearrange(features, "h w c -> c h w")
        features = encoder.positions(features)
        inputs = rearrange(features, "channels h w -> (h w) channels")
        return _over_rows(encoder.mlp, jax.vmap(encoder.norm)(inputs))


def _over_rows(mlp: Any, rows: Float[Array, "rows in_size"]) -> Array:
    """`jax.vmap(mlp)(rows)`, each layer as `rows @ weight.T`.

    `weight @ row`, mapped, is `weight @ rows.T` to XLA, and a transpose after it.
    """
    if type(mlp) is eqx.nn.MLP:
        layers = tuple(_RowFirst(x) if _is_plain(x) else x for x in mlp.layers)
        mlp = eqx.tree_at(lambda mlp: mlp.layers, mlp, layers)
    return jax.vmap(mlp)(rows)


def _is_plain(layer: Any) -> bool:
    sizes = (getattr(layer, name, None) for name in ("in_features", "out_features"))
    return type(layer) is eqx.nn.Linear and "scalar" not in sizes


class _RowFirst(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, x: Float[Array, " in_size"]) -> Float[Array, " out_size"]:
        made = einsum(x, self.linear.weight, "i, o i -> o")
        return made if self.linear.bias is None else made + self.linear.bias
