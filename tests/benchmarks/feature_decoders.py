"""What the decoders of features cost, forward and backward, as slots and tokens grow.

    python -m tests.benchmarks.feature_decoders [NAME ...] [--quick]

One image, features 384 wide, slots of 256, the decoders as published: DINOSAUR's MLP of
three hidden layers of 2048 on all slots and on the three that have most of a place,
its transformer of four blocks, VideoSAUR's mixer. CPU time, of which other work on the
machine takes nothing, the least of some turns; memory is what XLA keeps beside
arguments and results. The table of docs/guides/features.md is what this prints; names,
such as SlotMixer, choose rows of it. With `--quick` only the two ways of the MLP are
compared, at 256 tokens and 11 slots.
"""

import sys
import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from eqx_slots.models import AutoregressiveDecoder, PatchDecoder, SlotMixer


DECODERS = {
    "`PatchDecoder`": PatchDecoder,
    "`PatchDecoder(top_k=3)`": partial(PatchDecoder, top_k=3),
    "`AutoregressiveDecoder`": AutoregressiveDecoder,
    "`SlotMixer`": SlotMixer,
}
SIZES = [(196, 7), (256, 11), (256, 24)]
WIDTH, SLOT_SIZE, TURNS = 384, 256, 3


def program(make, inputs, slots):
    """The compiled gradient by weights and slots, and its arguments."""
    decoder = eqx.filter_jit(partial(make, SLOT_SIZE, WIDTH, inputs))(key=jr.key(0))
    params, static = eqx.partition(decoder, eqx.is_inexact_array)

    def error(params, slots, features, attention):
        decoder = eqx.combine(params, static)
        made = decoder(slots, features=features, attention=attention)
        return jnp.mean((made.features - features) ** 2)

    keys = jr.split(jr.key(1), 3)
    given = jr.normal(keys[0], (slots, SLOT_SIZE)), jr.normal(keys[1], (inputs, WIDTH))
    attention = jax.nn.softmax(jr.normal(keys[2], (slots, inputs)), axis=0)
    arguments = (params, *given, attention)
    return jax.jit(jax.grad(error, (0, 1))).lower(*arguments).compile(), arguments


def measured(make, inputs, slots):
    """Seconds of CPU time, and megabytes."""
    compiled, arguments = program(make, inputs, slots)
    times = []
    for _ in range(TURNS):
        start = time.process_time()
        jax.block_until_ready(compiled(*arguments))
        times.append(time.process_time() - start)
    return min(times), compiled.memory_analysis().temp_size_in_bytes / 1e6


def main():
    if "--quick" in sys.argv:
        names = list(DECODERS)[:2]
        found = {name: measured(DECODERS[name], 256, 11) for name in names}
        (all_time, all_memory), (time_, memory) = found.values()
        print(found)
        print(f"top 3 of 11: {time_ / all_time:.2f} of the time,", end=" ")
        print(f"{memory / all_memory:.2f} of the memory")
        return
    columns = " | ".join(f"{inputs} tokens, {slots} slots" for inputs, slots in SIZES)
    print(f"| | {columns} |\n" + (1 + len(SIZES)) * "| --- " + "|")
    words = sys.argv[1:]
    for name, make in DECODERS.items():
        if words and not any(word in name for word in words):
            continue
        cells = []
        for inputs, slots in SIZES:
            seconds, megabytes = measured(make, inputs, slots)
            cells.append(f"{seconds:.2f} s, {megabytes:.0f} MB")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
