import warnings
from collections.abc import Callable
from pathlib import Path

from ..._misc import check_positive, needs_extra
from .._record_files import Path_
from ._pictures import Pictures


def folder(
    path: Path_,
    *,
    image_size: int | tuple[int, int] | None = None,
    fit: str = "crop",
    channels: int | None = None,
    masks: Path_ | None = None,
    count: int | None = None,
    cache: Path_ | None = None,
    progress: Callable[[int], None] | None = None,
) -> Pictures:
    """The PNG, JPEG and WebP files of a folder and of its subfolders.

    They are in the order of their paths, so that equal names in two subfolders are two
    pictures; hidden files and folders are not looked at. Grays of 16 bits stay exact,
    colours of 16 bits are read as 8. Palettes and CMYK become RGB, what is transparent
    lies on black, EXIF turns pictures, and of an animation the first frame is taken.
    Whatever is read otherwise than one might think is among the `notes`.

    **Arguments:**

    - `path`: The folder.
    - `image_size`: Height and width, or the side of a square, that all get; `None` is
        the size that they have, if it is the same. (Keyword only argument, as all that
        follow.)
    - `fit`: How they get it: `"crop"` cuts the largest part of that shape out of the
        middle, `"stretch"` takes all of it, `"pad"` takes all of it and fills up with
        black. Sizes are changed by averaging over what becomes a pixel. The first two
        never enlarge.
    - `channels`: 3, or 1 for grays; `None` is what the pictures have, if it is the
        same.
    - `masks`: A folder with a label map for each picture, by the same path but as a
        PNG, gray or with a palette: whole numbers, 0 for background, 255 at most. They
        are for scores; no training looks at them.
    - `count`: How many of the files, the first by path; `None` means all.
    - `cache`: Folder of the decoded pictures; `None` is `eqx_slots` in
        `XDG_CACHE_HOME`, or in `~/.cache`. The cache of other files, or of the same
        with other options, is another; what is there can be deleted at any time.
    - `progress`: Called with the number of files decoded so far, now and then.

    **Returns:**

    [`eqx_slots.data.pictures.Pictures`][]. Files that are broken, too small, or huge as
    only a forged file is, are left out: a `RuntimeWarning` counts them, `skipped` says
    why of each. A `ValueError` says so if there are none, or if sizes or channels
    differ and none was asked for.

    **Example:**

    ```python
    import tempfile

    import numpy as np
    from eqx_slots.data import pictures
    from PIL import Image

    with tempfile.TemporaryDirectory() as path:
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(f"{path}/black.png")
        source = pictures.folder(path, image_size=(24, 32), cache=f"{path}/.cache")
        print(source.names, source[0].image.shape)  # ('black.png',) (3, 24, 32)
    ```
    """
    with needs_extra("data", "`pictures.folder`"):
        from . import _listing as inside

    if count is not None:
        check_positive(count=count)
    root, maps = Path(path), None if masks is None else Path(masks)
    files = inside.find(root, maps, count)
    plan = inside.planned(root, files, image_size, channels, fit)
    arrays = inside.read(root, files, plan, cache=cache, progress=progress)
    problems = [head.problem for head in files.heads]
    for row, said in enumerate(arrays.pop("problem").tolist()):
        problems[row] = problems[row] or said.decode(errors="replace")
    skipped = {name: said for name, said in zip(files.names, problems) if said}
    if skipped:
        sentence = inside.left_out(root, skipped, len(problems))
        if len(skipped) == len(problems):
            raise ValueError(sentence)
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)
    rows = [row for row, said in enumerate(problems) if not said]
    return Pictures(
        arrays["image"],
        arrays.get("labels"),
        names=[files.names[row] for row in rows],
        rows=rows,
        skipped=skipped,
        notes=inside.notes(files),
    )
