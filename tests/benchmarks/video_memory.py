"""How much memory a frame of a video takes, for the gradient of a loss.

    pip install -e ".[dev]" && python -m tests.benchmarks.video_memory

Preset `block_videos`, one video. XLA says what its program needs beside arguments and
results; the difference between a long video and a short one, over the frames between
them, is what a frame takes. It is compared with what there is to see of a frame: its
features, its masks and its pictures, of each slot and of all together.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_slots import losses
from eqx_slots.models import presets, SlotVideo


def loss(model, video):
    made = model(video)
    sparsity = jnp.mean(jax.vmap(losses.mask_sparsity)(made.masks))
    return losses.mean_squared_error(made.images, video) + 0.01 * sparsity


def bytes_to_see(model, size: int) -> int:
    """Of one frame."""
    video = jnp.zeros((1, 3, size, size))
    made = eqx.filter_eval_shape(model, video)
    features = eqx.filter_eval_shape(model.encoder, video[0])
    seen = (features, made.masks, made.rgb, made.images)
    return sum(x.size * x.dtype.itemsize for x in seen)


def bytes_taken(model, size: int, few: int = 8, many: int = 24) -> float:
    """By each frame of the gradient."""

    def needed(frames: int) -> int:
        call = eqx.filter_jit(eqx.filter_grad(loss))
        compiled = call.lower(model, jnp.zeros((frames, 3, size, size))).compile()
        return compiled.compiled.memory_analysis().temp_size_in_bytes

    return (needed(many) - needed(few)) / (many - few)


def main(size: int = 32) -> None:
    model = eqx.filter_jit(presets.block_videos)(image_size=size, key=jr.key(0))
    seen = bytes_to_see(model, size)
    print(f"features, masks and pictures of a frame: {seen / 1024:.0f} kB", flush=True)
    parts = (model.encoder, model.corrector, model.predictor, model.decoder)
    for use_checkpoint in (False, True):
        model = SlotVideo(
            *parts,
            num_iters=model.num_iters,
            first_iters=model.first_iters,
            standardization=model.standardization,
            use_checkpoint=use_checkpoint,
        )
        taken = bytes_taken(model, size)
        print(
            f"{use_checkpoint=}: {taken / 1024:.0f} kB, {taken / seen:.2f} of that",
            flush=True,
        )


if __name__ == "__main__":
    main()
