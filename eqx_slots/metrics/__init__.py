"""How well segmentations, and sets, agree: one example in, `Score(value, valid)` out.

Only [`eqx_slots.metrics.average_precision`][] needs all examples at once. Truth is a
label map, integers of any shape, in which 0 is the background. What a model says of it
is either labels of its own, by the largest mask, or the masks as they are: `soft_` in
front of a name means the latter. Report both, since masks of 0.4, 0.3 and 0.3
everywhere make as clean a label map as masks of 1, 0 and 0. All functions run inside
`jax.jit`, count in float32 (exact up to 16.7 million pixels) and are averaged over a
set by [`eqx_slots.metrics.mean`][], which leaves out undefined scores. A clip is scored
as one picture with more pixels, which [`eqx_slots.metrics.whole_clip`][] makes of it.
"""

from ._average_precision import (
    average_precision as average_precision,
    THRESHOLDS as THRESHOLDS,
)
from ._clips import (
    Clip as Clip,
    Identities as Identities,
    identities as identities,
    whole_clip as whole_clip,
)
from ._matched_slots import match_slots as match_slots, Matched as Matched
from ._overlap import (
    mean_best_overlap as mean_best_overlap,
    mean_iou as mean_iou,
    soft_mean_best_overlap as soft_mean_best_overlap,
    soft_mean_iou as soft_mean_iou,
)
from ._rand_index import (
    adjusted_rand_index as adjusted_rand_index,
    soft_adjusted_rand_index as soft_adjusted_rand_index,
)
from ._score import mean as mean, Score as Score
