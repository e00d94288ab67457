"""One's own pictures and videos: folders, archives, arrays, datasets, as sources.

`pictures.folder(path)[0].image` is the first picture of a folder, as models want it:
channels first, in [0, 1]; `pictures.clips(path, num_frames=6)[0].images` are the first
frames of a folder of videos. Files are decoded once, into a cache on the disk, from
which they are then read in any order: [`eqx_slots.training.host_batches`][] makes
batches. Reading files needs Pillow, `pip install "eqx-slots[data]"`.
"""

from ._arrays import archive as archive, arrays as arrays, dataset as dataset
from ._clips import Clip as Clip, Clips as Clips, clips as clips
from ._folder import folder as folder
from ._pictures import Picture as Picture, Pictures as Pictures
