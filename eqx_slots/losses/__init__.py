"""Losses: one example in, one number out; `jax.vmap` and `jnp.mean` make a batch.

`slot_contrast` alone takes a whole batch.
"""

from ._masks import mask_impurity as mask_impurity, mask_sparsity as mask_sparsity
from ._matched_set import (
    matched_set_loss as matched_set_loss,
    MatchedSetLoss as MatchedSetLoss,
)
from ._pair_cost import element_cost as element_cost, huber as huber
from ._reconstruction import (
    mean_squared_error as mean_squared_error,
    rgb_variance as rgb_variance,
)
from ._slots import (
    expected_num_slots as expected_num_slots,
    noise_divergence as noise_divergence,
    orthogonality as orthogonality,
)
from ._temporal import temporal_feature_similarity as temporal_feature_similarity
from ._video import (
    frames_squared_error as frames_squared_error,
    slot_contrast as slot_contrast,
)
