import jax
import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..._misc import check_key
from ...nn import GivenSlots, paper_weights, SlotAttention, SlotPredictor, WeightedMean
from .._decoder import SpatialBroadcastDecoder
from .._encoder import Encoder
from .._hints import BoxHints
from .._video import SlotVideo


def savi_small(*, num_slots: int = 24, key: PRNGKeyArray) -> SlotVideo:
    """SAVi-S at 64 x 64, conditional on boxes (Kipf et al. 2022): 886,948 parameters.

    Videos in [0, 1]; what it paints is optical flow as three channels of colour, or
    with the same architecture the pictures. Slots of 128, the background's first, start
    at the boxes of the first frame; missing boxes are made up by zeros, and their slots
    stay equal to the background's unless `slot_mask` hides them. The original also
    stores two grids of positions, 8,320 numbers, which are computed here.

    It was trained on windows of 6 frames, 64 of them a batch, for 100,000 steps of Adam
    on squared errors that are summed over a window, with a clipping of the gradient by
    its norm that always acts, as below.

    **Example:**

    ```python
    import equinox as eqx
    import jax.numpy as jnp
    import jax.random as jr
    import optax
    from eqx_slots.models import presets

    model = eqx.filter_jit(presets.savi_small)(num_slots=11, key=jr.key(0))
    video, boxes = jnp.zeros((2, 3, 64, 64)), jnp.zeros((10, 4))
    made = eqx.filter_jit(model)(video, hints=boxes)
    print(made.images.shape, made.slots.shape)  # (2, 3, 64, 64) (2, 11, 128)
    schedule = optax.warmup_cosine_decay_schedule(0, 2e-4, 2_500, 100_000)
    optim = optax.chain(optax.clip_by_global_norm(0.05), optax.adam(schedule))
    ```
    """
    check_key(key)
    encoder_key, corrector_key, predictor_key, decoder_key, start_key, new_key = (
        jr.split(key, 6)
    )
    encoder = Encoder(
        32, mlp_size=64, grid="savi", layer_norm_eps=1e-6, key=encoder_key
    )
    corrector = SlotAttention(
        32,
        128,
        num_iters=1,
        mlp_size=None,
        layer_norm_eps=1e-6,
        slot_init=GivenSlots(),
        reduction=WeightedMean(eps_in="sum"),
        key=corrector_key,
    )
    decoder = SpatialBroadcastDecoder(
        128,
        grid_size=(8, 8),
        hidden_sizes=(64, 64, 64, 64),
        kernel_sizes=(5, 5, 5, 5, 1),
        strides=(2, 2, 2, 1, 1),
        rgb_activation=jax.nn.identity,
        grid="savi",
        key=decoder_key,
    )
    model = SlotVideo(
        encoder,
        corrector,
        SlotPredictor(128, mlp_size=256, num_heads=4, key=predictor_key),
        decoder,
        BoxHints(128, hidden_size=256, num_slots=num_slots, key=start_key),
    )
    return paper_weights(model, defaults="flax", key=new_key)
