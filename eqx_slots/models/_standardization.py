import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from jax.core import Tracer
from jaxtyping import Array, Float

from .._misc import as_array, check_floating, check_shape


# The root mean square of a standardized picture: that of `blocks` on gray in [-1, 1],
# with which the rates and weights of the default example were found.
CONTRAST = 0.4


class Standardization(eqx.Module):
    """Pictures as a model sees them: less a colour, over a scale; and back.

    Not learned: no gradient reaches the two arrays. They are leaves of the model, so
    that they are saved with it. What a picture is compared with is its own background
    and not the middle of its range: to an encoder, whose convolutions pad with zeros,
    any other background has a frame around it, and pictures of little contrast have
    little gradient.

    **Example:**

    ```python
    import jax.numpy as jnp
    from eqx_slots.models import Standardization

    standardization = Standardization(jnp.array([-1.0, -1.0, -1.0]), jnp.array(2.0))
    seen = standardization(jnp.ones((3, 32, 32)))
    print(seen.max(), standardization.inverse(seen).max())  # 1.0 1.0
    ```
    """

    center: Float[Array, " channels"]
    scale: Float[Array, ""]

    def __init__(self, center: Float[Array, " channels"], scale: Float[Array, ""]):
        """**Arguments:**

        - `center`: The colour that becomes 0, a number for each channel.
        - `scale`: What differences from it are divided by, positive.

        [`eqx_slots.models.Standardization.of`][] measures both on some images.
        """
        self.center = as_array("center", center)
        self.scale = as_array("scale", scale)
        check_shape("center", self.center, "channels", (-1,))
        if self.scale.ndim:
            raise ValueError(
                f"`scale` must be one number, got an array of shape {self.scale.shape}."
            )
        if not isinstance(self.scale, Tracer) and not self.scale > 0:
            raise ValueError(f"`scale` must be positive, got {self.scale}.")

    @classmethod
    def of(
        cls, images: Float[Array, "batch channels height width"]
    ) -> "Standardization":
        """Measured on some images.

        The center is the median of each channel over all pixels, the colour of most
        backgrounds; with the scale, the root mean square of the standardized images is
        0.4. Images of one colour alone have the scale 1.

        **Arguments:**

        - `images`: A batch is enough. Integers, or arrays of another rank, are a
            `ValueError`.
        """
        images = as_array("images", images)
        check_floating("images", images)
        cure = ""
        if images.ndim == 5:
            cure = "Of videos take some frames, such as `images[:, 0]`."
        axes = "batch channels height width"
        check_shape("images", images, axes, (-1, -1, -1, -1), cure=cure)
        center = jnp.median(images, axis=(0, 2, 3), keepdims=True)
        squares = (images - center) ** 2
        scale = jnp.sqrt(reduce(squares, "b c h w -> ", "mean")) / CONTRAST
        center = rearrange(center, "1 channels 1 1 -> channels")
        return cls(center, jnp.where(scale > 0, scale, 1))

    def __call__(
        self, image: Float[Array, "channels height width"]
    ) -> Float[Array, "channels height width"]:
        """The image as the model sees it; `jax.vmap` maps a batch."""
        image, center, scale = self._fixed(image)
        return (image - center) / scale

    def inverse(
        self, image: Float[Array, "channels height width"]
    ) -> Float[Array, "channels height width"]:
        """The image that the model sees as this one."""
        image, center, scale = self._fixed(image)
        return center + scale * image

    def _fixed(self, image: Array) -> tuple[Array, Array, Array]:
        image = as_array("image", image)
        check_floating("image", image)
        sizes = (len(self.center), -1, -1)
        check_shape(
            "image",
            image,
            "channels height width",
            sizes,
            otherwise="A model for other channels has `Encoder(in_channels=...)`, and a"
            " standardization measured on such images.",
        )
        center, scale = jax.lax.stop_gradient((self.center, self.scale))
        center = rearrange(center.astype(image.dtype), "channels -> channels 1 1")
        return image, jnp.broadcast_to(center, image.shape), scale.astype(image.dtype)
