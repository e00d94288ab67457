"""What is wrong with a trained slot autoencoder: numbers, and a sentence for each.

[`eqx_slots.diagnostics.diagnose`][] looks at a batch of images and at what the model
made of them, and names the known ways to fail that it sees, causes before consequences.
The numbers are functions of their own: on a batch (where the model was mapped by
`jax.vmap`), inside `jax.jit`, and blind to the order of slots and images.
"""

from ._findings import diagnose as diagnose, Finding as Finding
from ._masks import (
    attention_agreement as attention_agreement,
    duplicate_slots as duplicate_slots,
    effective_slots as effective_slots,
    position_dependence as position_dependence,
)
from ._objects import (
    crowded_images as crowded_images,
    lost_objects as lost_objects,
    merged_objects as merged_objects,
    shared_background as shared_background,
)
from ._picture import (
    reconstruction_error as reconstruction_error,
    saturated_error as saturated_error,
)
from ._undecided import (
    undecided_background as undecided_background,
    undecided_objects as undecided_objects,
)
