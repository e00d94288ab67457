"""A folder of real pictures to try: scenes of scikit-learn's handwritten digits.

    python examples/digits_folder.py [--number N] [--output DIR]
    python examples/own_pictures.py runs/digits/pictures --masks runs/digits/masks

Each scene has two or three of the 1,797 digits, 8 x 8, twice as large, on 48 x 48 black
pixels. Another covers at most a fifth of a digit. `pictures/` and `masks/` get a PNG of
each, a mask with 0 for background. Half a minute; needs `pip install scikit-learn`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tyro
from options import check_run, make_folder
from PIL import Image
from sklearn.datasets import load_digits


SIDE, SCALE, COVERED = 48, 2, 0.2
INK = 3  # of 16: what is darker belongs to the background


def scene(digits, rng):
    """A picture of some digits, and who owns each of its pixels."""
    picture, labels = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE), np.uint8)
    sizes = [0]
    number = rng.integers(2, 4)
    while len(sizes) <= number:
        digit = np.kron(digits[rng.integers(len(digits))], np.ones((SCALE, SCALE)))
        top, left = rng.integers(0, SIDE + 1 - np.array(digit.shape))
        place = slice(top, top + digit.shape[0]), slice(left, left + digit.shape[1])
        ink, drawn = digit >= INK, labels.copy()
        drawn[place][ink] = len(sizes)
        left_of = np.bincount(drawn.ravel(), minlength=len(sizes))
        if any(left_of[i] < (1 - COVERED) * size for i, size in enumerate(sizes) if i):
            continue
        picture[place] = np.where(ink, digit / 16, picture[place])
        labels, sizes = drawn, [*sizes, int(ink.sum())]
    return np.rint(255 * picture).astype(np.uint8), labels


def main(number: int = 4000, seed: int = 0, output: Path = Path("runs/digits")):
    check_run(number, seed)
    for name in ("pictures", "masks"):
        make_folder(output / name)
    data: Any = load_digits()
    digits, rng = data.images, np.random.default_rng(seed)
    for index in range(number):
        picture, labels = scene(digits, rng)
        Image.fromarray(picture).save(output / "pictures" / f"{index:05}.png")
        Image.fromarray(labels).save(output / "masks" / f"{index:05}.png")
    print(f"{number} scenes in {output}")


if __name__ == "__main__":
    tyro.cli(main)
