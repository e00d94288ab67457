"""What `own_pictures.py` reads, and what it proposes: size, slots and range."""

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.ndimage
from options import refuse
from PIL import Image

from eqx_slots.data import pictures


LOOKED_AT = 64
HELD_OUT = 128  # at most, and at most a tenth
LONGEST = 64  # of the sides that are proposed: minutes on a CPU, not hours
SPARE = 3  # slots beyond one for each object, as `kinds.py` has them
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def proposed(arguments):
    """The arguments, with what was not said."""
    if not (images := some_of(arguments.folder, arguments.masks)):
        refuse(f"{arguments.folder} has no picture that can be read.")
    size, slots, why = propose(images)
    for name, sentence in why.items():
        print(f"{name:6} {sentence}")
    is_gray = all(np.ptp(np.asarray(image), axis=2).max() == 0 for _, image in images)
    return replace(
        arguments,
        image_size=arguments.image_size or size,
        num_slots=arguments.num_slots or slots,
        channels=arguments.channels or (1 if is_gray else 3),
    )


def read(arguments):
    """Pictures to train on, and some that are not."""
    try:
        source = pictures.folder(
            arguments.folder,
            image_size=arguments.image_size,
            fit=arguments.fit,
            channels=arguments.channels,
            masks=arguments.masks,
            progress=lambda count: print(f"{count} pictures read", end="\r"),
        )
    except ValueError as error:
        refuse(str(error))
    for note in source.notes:
        print(note)
    order = np.random.default_rng(0).permutation(len(source))
    num_held_out = max(2, min(HELD_OUT, len(source) // 10))
    if len(source) < arguments.batch_size + num_held_out:
        few = f"{arguments.folder} has {len(source)} pictures"
        refuse(f"{few}, too few for --batch-size {arguments.batch_size}.")
    return source.take(order[num_held_out:]), source.take(order[:num_held_out])


def pictures_in(folder, masks=None):
    """The pictures of a folder and its subfolders, by their paths; masks are none."""
    masks = masks and masks.resolve()
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (masks and path.parent.resolve().is_relative_to(masks))
    )


def in_bytes(image):
    """As `data.pictures` reads it: of 16 bits the upper 8, on black if transparent."""
    return Image.fromarray(pictures.dataset([{"image": image}]).pixels[0])


def some_of(folder, masks=None):
    """Some pictures, from all over a folder: the size of each, and it itself."""
    paths = pictures_in(folder, masks)
    chosen = np.linspace(0, len(paths) - 1, min(LOOKED_AT, len(paths))).astype(int)
    found = []
    for path in (paths[index] for index in chosen):
        try:
            with Image.open(path) as image:
                size = image.size
                image.draft("RGB", (256, 256))  # of JPEGs, a smaller one will do
                image = in_bytes(image)
                if (size[0] > size[1]) != (image.width > image.height):
                    size = size[::-1]  # EXIF has turned it
        except (OSError, SyntaxError, ValueError):
            continue  # `data.pictures` names and counts what is broken
        found.append((size, image))
    return found


def propose(images):
    """Height and width, the number of slots, and a sentence on each and on the range.

    Objects are counted where the background is plain: as what hangs together and is of
    another colour than most of the edge. Two that touch are one, which is why there are
    slots to spare.
    """
    height, width = (int(np.median([size[i] for size, _ in images])) for i in (1, 0))
    scale = min(1, LONGEST / max(height, width))
    size = tuple(max(8, round(side * scale)) for side in (height, width))
    small = [np.asarray(image.resize(size[::-1])) / 255 for _, image in images]
    counts, plain = zip(*map(objects_in, small))
    most = int(np.percentile(counts, 95))
    is_plain = float(np.median(plain)) > 0.8
    slots = int(np.clip(most + SPARE, 4, 16)) if is_plain else 7
    low, high = np.percentile(small, 1), np.percentile(small, 99)
    sides = f"{size[0]} x {size[1]}: most pictures are {height} x {width}"
    sides += ", which would take hours on a CPU." if scale < 1 else "."
    number = f"{slots}: up to {most} things on a plain background, and a few to spare."
    if not is_plain:
        number = f"{slots}: no plain background, so nothing could be counted. Expect"
        number += " parts by colour rather than things."
    range_ = f"{low:.2f} to {high:.2f} of [0, 1]; the model begins with their mean."
    if high - low < 0.3:
        range_ += " There is little contrast."
    why = {"size": sides, "slots": number, "range": range_}
    return size, slots, why


def objects_in(image):
    """How many things there are, and how much of the edge is of one colour."""
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    colour = np.median(edge, axis=0)
    is_other = lambda pixels: np.max(np.abs(pixels - colour), axis=-1) > 0.15
    found: Any = scipy.ndimage.label(is_other(image))
    labels, number = found
    sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    return int(np.sum(sizes >= 0.003 * labels.size)), 1 - np.mean(is_other(edge))
