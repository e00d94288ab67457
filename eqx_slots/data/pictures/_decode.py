"""From pictures of any kind to arrays of one: looked at, decoded, cut and resized."""

import errno
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_FORMATS = ("PNG", "JPEG", "WebP")
_GRAY = ("1", "L", "LA", "I;16")
_ORIENTATION = 0x0112  # of EXIF; from 5 on, sides change places
_PASSING = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT)
FITS = ("crop", "stretch", "pad")


class Header(NamedTuple):
    """What a file says of its picture, or why it is none."""

    size: tuple[int, int] = (0, 0)
    is_gray: bool = False
    is_deep: bool = False
    """Whether it has 16 bits a channel."""
    remarks: tuple[str, ...] = ()
    problem: str = ""
    num_frames: int = 1
    """Of a GIF; of other files one is read."""


class Plan(NamedTuple):
    """What all pictures become."""

    size: tuple[int, int]
    channels: int
    is_deep: bool
    fit: str

    @property
    def dtype(self) -> str:
        """Of a channel; only grays keep 16 bits."""
        return "<u2" if self.is_deep else "u1"


def listed(path: Path, without: Path | None) -> tuple[list[str], list[str]]:
    """Pictures by their paths in the folder, sorted, and the files of other kinds."""
    pictures, others = [], []
    without = without and without.resolve()  # one path may be absolute
    for folder, folders, files in os.walk(path):
        here = Path(folder)
        folders[:] = [
            name
            for name in folders
            if not (name.startswith(".") or (here / name).resolve() == without)
        ]
        for name in files:
            if not name.startswith("."):
                kind = pictures if name.lower().endswith(SUFFIXES) else others
                kind.append((here / name).relative_to(path).as_posix())
    return sorted(pictures), sorted(others)


def look(path: Path, formats: tuple[str, ...] = _FORMATS) -> Header:
    """Read the head of a file, and nothing of its pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path, formats=formats) as image:
                return _header(image)
        except Exception as error:  # Pillow raises all kinds at what is no picture
            _raise_if_passing(error)
            return Header(problem=_reason(error, formats))


def _header(image: ImageFile.ImageFile) -> Header:
    # Of a PNG without EXIF at its head, asking for it would decode all of it.
    has_exif = image.format != "PNG" or "exif" in image.info
    turn = image.getexif().get(_ORIENTATION, 1) if has_exif else 1
    width, height = image.size
    raw = str(image.tile[0].args) if image.format == "PNG" else ""
    is_deep, remarks = raw.endswith("16B"), list[str]()
    is_gray = image.mode in _GRAY or raw.startswith("LA")  # Pillow makes those RGBA
    is_gif, num_frames = image.format == "GIF", getattr(image, "n_frames", 1)
    if is_deep and image.mode != "I;16":
        remarks.append("has 16 bits a channel and is read as 8")
    # Phones put a second picture, a preview, into a JPEG.
    if num_frames > 1 and image.format not in ("GIF", "MPO"):
        remarks.append("moves; its first frame is taken")
    if _has_alpha(image):
        remarks.append("is transparent and lies on black now")
    if turn > 1:
        remarks.append("is turned as its EXIF says")
    size = (width, height) if turn >= 5 else (height, width)
    return Header(
        size,
        is_gray and not is_gif,  # of which one sees only the first frame here
        image.mode == "I;16",
        tuple(remarks),
        num_frames=num_frames if is_gif else 1,
    )


def _has_alpha(image: Image.Image) -> bool:
    alpha = image.mode in ("LA", "PA", "RGBA", "La", "RGBa")
    return alpha or (image.mode != "I;16" and "transparency" in image.info)


def decode(path: Path, plan: Plan) -> tuple[np.ndarray, tuple[int, int]]:
    """The picture of a file, and the height and width that it had."""
    with Image.open(path, formats=_FORMATS) as image:
        return prepare(image, plan)


def prepare(image: Image.Image, plan: Plan) -> tuple[np.ndarray, tuple[int, int]]:
    """`height width channels` as planned; a picture that is too small is refused."""
    image = ImageOps.exif_transpose(image)
    width, height = image.size
    if plan.fit != "pad" and (height < plan.size[0] or width < plan.size[1]):
        wanted = f"{plan.size[0]} x {plan.size[1]}"
        raise ValueError(
            f'it is {height} x {width}, smaller than {wanted} (`fit="pad"` would put'
            " it on black)"
        )
    image = fitted(_converted(image, plan), plan, Image.Resampling.BILINEAR)
    array = np.asarray(image)
    if plan.is_deep:
        array = np.rint(array).astype(np.uint16)
    return array.reshape(*plan.size, plan.channels), (height, width)


def _converted(image: Image.Image, plan: Plan) -> Image.Image:
    if image.mode == "I;16":
        deep = np.asarray(image)
        if plan.is_deep:  # as floats, the only kind that Pillow resizes exactly
            return Image.fromarray(deep.astype(np.float32))
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    elif _has_alpha(image):
        layer = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, layer).convert("RGB")
    image = image.convert("RGB" if plan.channels == 3 else "L")
    if plan.is_deep:
        return Image.fromarray(257 * np.asarray(image, np.float32))
    return image


def fitted(image: Image.Image, plan: Plan, how: Image.Resampling) -> Image.Image:
    """Cut or padded to the planned shape, then resized, all about the middle."""
    (height, width), (wide, high) = plan.size, image.size
    if plan.fit == "pad":
        scale = min(height / high, width / wide, 1)
        inner = max(1, round(wide * scale)), max(1, round(high * scale))
        whole = Image.new(image.mode, (width, height))
        corner = (width - inner[0]) // 2, (height - inner[1]) // 2
        whole.paste(image.resize(inner, how), corner)
        return whole
    box = (0.0, 0.0, float(wide), float(high))
    if plan.fit == "crop":
        box = cut(high, wide, height, width)
    return image.resize((width, height), how, box=box)


def cut(
    high: int, wide: int, height: int, width: int
) -> tuple[float, float, float, float]:
    """The largest box about the middle that has the shape of `height` by `width`."""
    scale = min(wide / width, high / height)
    left, top = (wide - width * scale) / 2, (high - height * scale) / 2
    return left, top, left + width * scale, top + height * scale


def label_map(path: Path, plan: Plan, size: tuple[int, int]) -> np.ndarray:
    """The mask of a picture of such a size: whole numbers, cut like the picture."""
    with Image.open(path, formats=("PNG",)) as image:
        if image.mode not in ("1", "L", "P", "I;16"):
            raise ValueError(
                f"its mask is {image.mode}, no gray or palette PNG of whole numbers"
            )
        labels = np.asarray(image)
    if labels.shape != size:
        have = " x ".join(map(str, labels.shape))
        raise ValueError(f"its mask is {have}, the picture {size[0]} x {size[1]}")
    if labels.max() > 255:
        raise ValueError(
            f"its mask has labels up to {labels.max()}, 255 at most can be"
        )
    image = Image.fromarray(labels.astype(np.uint8))
    return np.asarray(fitted(image, plan, Image.Resampling.NEAREST))


def record(
    plan: Plan,
    make: Callable[[], tuple[np.ndarray, np.ndarray | None]],
    problem: str = "",
) -> dict[str, np.ndarray]:
    """What is kept of a picture that can be made; of another zeros, and the problem."""
    image, labels = np.zeros((*plan.size, plan.channels), plan.dtype), None
    try:
        if not problem:
            image, labels = make()
    except Exception as error:  # as above
        _raise_if_passing(error)
        problem = _reason(error)
    labels = np.zeros(plan.size, np.uint8) if labels is None else labels
    said = np.array(problem.encode(errors="replace")[:200], "S200")
    return {"image": image, "labels": labels, "problem": said}


def decoded(
    files: Sequence[Path],
    heads: Sequence[Header],
    masks: Sequence[Path] | None,
    plan: Plan,
) -> Callable[[int], Iterator[dict[str, np.ndarray]]]:
    """What is kept of each file after the first few; of a broken one, why it is."""
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> dict[str, np.ndarray]:
        def make() -> tuple[np.ndarray, np.ndarray | None]:
            image, size = decode(files[number], plan)
            return image, None if masks is None else label_map(
                masks[number], plan, size
            )

        return record(plan, make, heads[number].problem)

    def decode_after(skip: int) -> Iterator[dict[str, np.ndarray]]:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(skip, len(files), 64):  # not all of them at once
                stop = min(start + 64, len(files))
                yield from threads.map(one, range(start, stop))

    return decode_after


def _raise_if_passing(error: Exception) -> None:
    """A disk that fails says nothing of the picture, and is not to be remembered."""
    if isinstance(error, OSError) and error.errno in _PASSING:
        raise error


def _reason(error: Exception, formats: tuple[str, ...] = _FORMATS) -> str:
    """In a few words, without Pillow's address of the file in memory."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is no {' or '.join(', '.join(formats).rsplit(', ', 1))}"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it is huge: more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    return str(error).rstrip(".") or type(error).__name__
