"""The default example as benchmarks train it: on a batch of the last step.

There masks are priced in full, and gradients go through all rounds.
"""

import sys
from pathlib import Path

import jax
import jax.random as jr


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import autoencoder as example


def last_batch(arguments):
    paint = lambda key: example.paint(key, arguments.batch_size, arguments)
    return example.batch_for(jax.jit(paint)(jr.key(1)), 1, 1, arguments.sparsity)
