from typing import Literal

import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..._misc import check_key
from ...nn import SlotAttention
from .._autoregressive_decoder import AutoregressiveDecoder
from .._feature_autoencoder import FeatureAutoencoder, FeatureProjection
from .._patch_decoder import PatchDecoder


def dinosaur(
    *,
    num_slots: int = 7,
    feature_size: int = 384,
    num_inputs: int = 196,
    slot_size: int = 256,
    hidden_size: int = 2048,
    decoder: Literal["mlp", "transformer"] = "mlp",
    num_heads: int = 8,
    top_k: int | None = None,
    key: PRNGKeyArray,
) -> FeatureAutoencoder:
    """DINOSAUR on the features of a ViT (Seitzer et al. 2023), by its official code.

    `feature_size` is 384 for ViT-S and 768 for ViT-B, `num_inputs` 196 for patches of
    16 pixels in images of 224 and 784 for patches of 8. With 196 of them the MLP
    decoder has 9,758,081 parameters for ViT-S and 10,544,897 for ViT-B, the whole model
    11,123,713 and 12,452,353; with the transformer it has 11,079,680 and 40,504,832.

    Published are 7 slots for COCO, 6 for VOC; 11 for MOVi-C and 24 for MOVi-E, these
    with a `slot_size` of 128 and decoders with a `hidden_size` of 1024. `decoder` is
    [`eqx_slots.models.PatchDecoder`][] or
    [`eqx_slots.models.AutoregressiveDecoder`][], whose `num_heads` are 8 for COCO and 4
    for VOC and MOVi, and `top_k` of the former (FT-DINOSAUR has 3). Another name is a
    `ValueError`.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.models import presets

    model = eqx.filter_eval_shape(presets.dinosaur, key=jr.key(0))  # shapes alone
    made = eqx.filter_eval_shape(model, jnp.zeros((196, 384)), key=jr.key(1))
    print(made.features.shape, made.masks.shape)  # (196, 384) (7, 196)
    ```
    """
    check_key(key)
    project_key, layer_key, decoder_key = jr.split(key, 3)
    project = FeatureProjection(feature_size, slot_size, key=project_key)
    slot_attention = SlotAttention(
        slot_size,
        slot_size,
        num_slots=num_slots,
        mlp_size=4 * slot_size,
        layer_norm_eps=1e-5,
        weight_init="equinox",
        key=layer_key,
    )
    sizes = (slot_size, feature_size, num_inputs)
    if decoder == "mlp":
        made = PatchDecoder(
            *sizes, hidden_sizes=(hidden_size,) * 3, top_k=top_k, key=decoder_key
        )
    elif decoder == "transformer":
        made = AutoregressiveDecoder(*sizes, num_heads=num_heads, key=decoder_key)
    else:
        raise ValueError(
            f'`decoder` must be "mlp" or "transformer", got {decoder!r}; put other'
            " parts together by `models.FeatureAutoencoder`."
        )
    return FeatureAutoencoder(project, slot_attention, made)
