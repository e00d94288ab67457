"""How much memory a frame of a video takes, for the gradient of a loss.

    pip install -e ".[dev]" && python -m tests.benchmarks.video_memory

Preset `block_videos`, one video. XLA says what its program needs beside arguments and
results; the difference between a long video and a short one, over the frames between
them, is what a frame takes. It is compared with what there is to see of a frame, its
features, its masks and its pictures, of each slot and of all together; and with what
automatic differentiation keeps of it, every activation of encoder and decoder included.
"""

from collections.abc import Callable

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


def is_shape(leaf) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def size_of(arrays) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(arrays))


def of_a_frame(needed: Callable[[int], int], few: int = 8, many: int = 24) -> float:
    return (needed(many) - needed(few)) / (many - few)


def bytes_to_see(model, size: int) -> int:
    """Of one frame."""
    video = jnp.zeros((1, 3, size, size))
    made = eqx.filter_eval_shape(model, video)
    features = eqx.filter_eval_shape(model.encoder, video[0])
    return size_of((features, made.masks, made.rgb, made.images))


def bytes_kept(model, size: int) -> float:
    """By each frame, from the way there to the way back."""
    arrays, static = eqx.partition(model, is_shape)

    def pull(arrays, video):
        of = lambda arrays: loss(eqx.combine(arrays, static), video)
        return jax.vjp(of, arrays)[1]

    def needed(frames: int) -> int:
        video = jax.ShapeDtypeStruct((frames, 3, size, size), jnp.float32)
        return size_of(jax.eval_shape(pull, arrays, video))

    return of_a_frame(needed)


def bytes_taken(model, size: int) -> float:
    """By each frame of the gradient."""
    arrays, static = eqx.partition(model, is_shape)

    @jax.jit
    def gradient(arrays, video):
        return eqx.filter_grad(loss)(eqx.combine(arrays, static), video)

    def needed(frames: int) -> int:
        video = jax.ShapeDtypeStruct((frames, 3, size, size), jnp.float32)
        compiled = gradient.lower(arrays, video).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    return of_a_frame(needed)


def main(size: int = 32) -> None:
    make = presets.block_videos
    model = eqx.filter_eval_shape(make, image_size=size, key=jr.key(0))
    seen, kept = bytes_to_see(model, size), bytes_kept(model, size)
    print(f"features, masks and pictures of a frame: {seen / 1024:.0f} kB")
    print(f"what differentiation keeps of it: {kept / 1024:.0f} kB", flush=True)
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
            f"{use_checkpoint=}: {taken / 1024:.0f} kB, {taken / seen:.2f} of the first"
            f" and {taken / kept:.2f} of the second",
            flush=True,
        )


if __name__ == "__main__":
    main()
