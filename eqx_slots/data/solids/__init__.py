"""Solids: cubes, balls and cylinders of rubber and metal, in the manner of CLEVR.

`scene(key)` casts rays inside `jax.jit`: three lamps with soft shadows, metal that
mirrors what is around it, exact masks, depth, and the nineteen numbers of each object
that set prediction wants; in `video(key, num_frames=6)` they slide, roll and collide.
CLEVR (Johnson et al. 2017) was rendered by Blender: its rule of places, its sizes and
its colours are kept here, its light is not, and these scenes are like those and not
those.
"""

from ._arrange import arrange as arrange
from ._kinds import (
    COLOURS as COLOURS,
    SIZES as SIZES,
    Solids as Solids,
    View as View,
)
from ._render import elements as elements, render as render, scene as scene
from ._video import video as video
