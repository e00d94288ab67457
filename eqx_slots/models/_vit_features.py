from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
from jaxtyping import Array, Float

from .._misc import as_array, check_floating, check_shape


@runtime_checkable
class _VisionTransformer(Protocol):
    """What is asked of a vision transformer; those of Equimo 2.7 and later have it."""

    num_prefix_tokens: int
    forward_features: Callable[..., dict[str, Any]]


class ViTFeatures(eqx.Module):
    """The patches of a vision transformer, as a backbone: an image to `inputs width`.

    For the transformers of [Equimo](https://github.com/clementpoiret/Equimo) 2.7 and
    later, and for whatever has an attribute `num_prefix_tokens` and a method
    `forward_features(image, inference=True)` that gives a dictionary with
    `"x_prenorm"`, all tokens before the last norm, and `"x_norm_patchtokens"`, the
    patches after it. DINOSAUR's features are the former, without the class token and
    registers:

        import equimo.vision.models as em

        vit = em.dinov2_vits14_reg(pretrained=True, img_size=224)
        backbone = ViTFeatures(vit)  # 256 features of 384

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    from eqx_slots.models import ViTFeatures

    class ViT(eqx.Module):  # stands for Equimo's
        num_prefix_tokens: int = 1

        def forward_features(self, image, *, inference):
            tokens = jnp.broadcast_to(image.mean(), (1 + 16, 24))
            return {"x_prenorm": tokens, "x_norm_patchtokens": 0 * tokens[1:]}

    backbone = ViTFeatures(ViT())
    print(backbone(jnp.ones((3, 56, 56))).shape)  # (16, 24)
    ```
    """

    transformer: _VisionTransformer
    use_norm: bool = eqx.field(static=True)
    frozen: bool = eqx.field(static=True)

    def __init__(
        self,
        transformer: _VisionTransformer,
        *,
        use_norm: bool = False,
        frozen: bool = True,
    ):
        """**Arguments:**

        - `transformer`: The vision transformer.
        - `use_norm`: Whether its last norm is applied. (Keyword only argument.)
        - `frozen`: Whether gradients stop here. An optimiser with weight decay needs
            the weights kept from it all the same. (Keyword only argument.)

        A transformer without those two attributes is a `ValueError`.
        """
        for name in ("num_prefix_tokens", "forward_features"):
            if not hasattr(transformer, name):
                raise ValueError(
                    f"`transformer` must have `{name}`, as Equimo's, and"
                    f" {type(transformer).__name__} has not; any function from an image"
                    " to (inputs, width) is a backbone as it is."
                )
        self.transformer = transformer
        self.use_norm = use_norm
        self.frozen = frozen

    def __call__(
        self, image: Float[Array, "channels height width"]
    ) -> Float[Array, "inputs feature_size"]:
        """**Arguments:**

        - `image`: One image, in the range that the transformer was trained on;
            `jax.vmap` maps a batch.

        **Returns:**

        The features of the patches, row by row.
        """
        image = as_array("image", image)
        check_floating("image", image)
        batch = "jax.vmap(backbone)({name})"
        axes = "channels height width"
        check_shape("image", image, axes, (-1, -1, -1), batch=batch)
        made = self.transformer.forward_features(image, inference=True)
        if self.use_norm:
            features = made["x_norm_patchtokens"]
        else:
            features = made["x_prenorm"][self.transformer.num_prefix_tokens :]
        return jax.lax.stop_gradient(features) if self.frozen else features
