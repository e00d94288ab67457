"""Features of a frozen backbone: computed once, kept on the disk, read in any order.

A backbone is a callable from one image to `inputs width`, one row for each patch. What
it gives for an image never changes, so nobody has to compute it twice:
`features.cached(backbone, images, path)` computes what is not there yet and gives a
sequence with random access.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from .._misc import check_positive, needs_extra
from ._cache import alone, Layout, Mapped, unfinished_of, write_note, write_once
from ._digest import digest_of_callable
from ._numpy_files import load_one


_VERSION = 1
_DIGEST_BYTES = 16


@runtime_checkable
class _Source(Protocol):
    """Images with random access: a list, an array, the records of a file."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class Features(Sequence[NDArray[Any]]):
    """The features of many images, in their order.

    `features[i]` are those of one image, `inputs width` in float32, and `features[a:b]`
    those of several. It has random access, and so is a source for Grain and PyTorch as
    it is. What is read from a cache is held against its digest each time: bytes that
    have changed are a `ValueError` that names both.

    **Fields:**

    - `array`: All features as they are kept, `images inputs width`.

    **Example:**

    ```python
    import numpy as np
    from eqx_slots.data import features

    tokens = features.Features(np.zeros((10, 196, 384), np.float16))
    print(len(tokens), tokens[3].shape, tokens[3].dtype)  # 10 (196, 384) float32
    ```
    """

    array: Any

    def __init__(
        self, array: Any, *, digests: NDArray[Any] | None = None, path: str = ""
    ):
        """**Arguments:** the field, and

        - `digests`: Of the bytes of each image's features. (Keyword only argument.)
        - `path`: The file that they are of, for what errors say. (Keyword only
            argument.)

        An array of other axes, or of integers, is a `ValueError`.
        """
        if len(array.shape) != 3 or not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{path or '`array`'} must hold features (images, inputs, width),"
                f" floating point, got {array.dtype}{list(array.shape)}."
            )
        self.array, self._digests, self._path = array, digests, path

    def __len__(self) -> int:
        """How many images."""
        return int(self.array.shape[0])

    def __getitem__(self, index: Any) -> Any:
        """The features of an image, or of several of a slice."""
        if isinstance(index, slice):
            chosen = range(*index.indices(len(self)))
            empty = np.zeros((0, *self.array.shape[1:]), np.float32)
            return np.stack([self[i] for i in chosen]) if chosen else empty
        index = range(len(self))[index]
        found = np.asarray(self.array[index])
        if self._digests is not None:
            stated = self._digests[index].tobytes()
            _check_bytes(self._path, index, stated, found.tobytes())
        return found.astype(np.float32)


def cached(
    backbone: Callable[[Any], Any],
    source: _Source,
    path: str | os.PathLike[str],
    *,
    preprocess: Callable[[Any], Any] | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Features:
    """The features of all images of a source, computed by the first call alone.

    They are written beside `path` and moved there when all are there. A call that was
    stopped goes on where it was at the next; of two at once one waits for the other.

    **Arguments:**

    - `backbone`: One image to its features, as [`eqx_slots.models.ViTFeatures`][]; any
        function will do.
    - `source`: The images, by number; of a [`eqx_slots.data.Scene`][] its image. Their
        number is all that is remembered of them: other images want another `path`.
    - `path`: The folder of the features.
    - `preprocess`: What the backbone is to see of what the source holds; `None` means
        the image as it is. (Keyword only argument, as all that follow.)
    - `dtype`: In which they are kept. With `"float16"` 196 features of 384 take 150 kB
        an image, half of what they take with `"float32"`.
    - `batch_size`: How many images to compute at once, by `jax.vmap` and `jax.jit`;
        `None` calls the backbone as it is, one image at a time, and it need not be
        JAX's.
    - `progress`: Called with the number of images done so far, now and then.

    **Returns:**

    [`eqx_slots.data.features.Features`][]. If what is there was made by another
    backbone or other preprocessing, that is a `ValueError` with the digests of both, as
    is a file that is cut short or has changed. The digest of a module is that of its
    fields, arrays included; that of a function is of its bytecode too, which another
    version of Python compiles to other bytes. Features that differ in shape from image
    to image, or that `dtype` cannot hold, are a `ValueError`; a full disk is an
    `OSError` after which the next call goes on.

    **Example:**

    ```python
    import tempfile

    import jax.numpy as jnp
    import jax.random as jr
    from eqx_slots.data import features
    from eqx_slots.models import Encoder

    encoder = Encoder(24, strides=(4, 4), key=jr.key(0))  # for want of a backbone
    images = jr.uniform(jr.key(1), (5, 3, 32, 32))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/features"
        tokens = features.cached(encoder, images, path, dtype="float16", batch_size=2)
        print(len(tokens), tokens[4].shape)  # 5 (4, 24)
        again = features.cached(encoder, images, path, dtype="float16")  # from the disk
        print((again[4] == tokens[4]).all())  # True
    ```
    """
    folder, count = Path(path), len(source)
    check_positive(images=count, batch_size=1 if batch_size is None else batch_size)
    if dtype not in ("float32", "float16"):
        raise ValueError(f'`dtype` must be "float32" or "float16", got {dtype!r}.')
    identity = {
        "version": _VERSION,
        "backbone": digest_of_callable(backbone),
        "preprocessing": digest_of_callable(preprocess),
        "images": count,
        "dtype": dtype,
    }
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                made = _Making(backbone, source, preprocess, batch_size, dtype)
                _write(folder, identity, made, progress)
    return _opened(folder, identity)


def saved(path: str | os.PathLike[str], *, name: str | None = None) -> Features:
    """Features that something else has computed: an array `images inputs width`.

    **Arguments:**

    - `path`: A file of NumPy (`.npy`), mapped from the disk, or of safetensors, which
        needs `pip install "eqx-slots[weights]"`.
    - `name`: Of the array in a safetensors file; `None` is the only one. (Keyword only
        argument.)

    **Returns:**

    [`eqx_slots.data.features.Features`][]. A file of another kind or of other axes is a
    `ValueError`.

    **Example:**

    ```python
    import tempfile

    import numpy as np
    from eqx_slots.data import features

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/tokens.npy", np.zeros((10, 16, 24), np.float16))
        tokens = features.saved(f"{folder}/tokens.npy")
        print(len(tokens), tokens[3].shape)  # 10 (16, 24)
    ```
    """
    path = Path(path)
    if path.suffix == ".npy":
        return Features(load_one(path), path=str(path))
    if path.suffix != ".safetensors":
        raise ValueError(f"`path` must end in .npy or .safetensors, got {path}.")
    with needs_extra("weights", "`features.saved`"):
        from safetensors import safe_open, SafetensorError
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error})."
        ) from error
    names = sorted(file.keys())
    if name is None and len(names) == 1:
        (name,) = names
    if name is None or name not in names:
        listed = ", ".join(names)
        raise ValueError(f"`name` must be one of {listed} in {path}, got {name!r}.")
    return Features(_Slice(path, name), path=f"{name} of {path}")


class _Slice:
    """A tensor of a safetensors file, of which one row at a time is read."""

    def __init__(self, path: Path, name: str):
        from safetensors import safe_open

        self.of = path, name
        self.rows = safe_open(path, framework="numpy").get_slice(name)
        self.shape = tuple(self.rows.get_shape())
        self.dtype = self.rows[:0].dtype if self.shape else np.dtype(float)

    def __reduce__(self) -> Any:
        """How to pickle it: whoever is given it opens the file, too."""
        return _Slice, self.of

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self.rows[index : index + 1][0]


class _Making:
    """Features of images, one after the other, as they are kept."""

    def __init__(
        self,
        backbone: Callable[[Any], Any],
        source: _Source,
        preprocess: Callable[[Any], Any] | None,
        batch_size: int | None,
        dtype: str,
    ):
        self.source, self.preprocess, self.dtype = source, preprocess, dtype
        self.backbone, self.batch_size = backbone, batch_size
        self.shape = self.of([0])[0].shape

    def image(self, index: int) -> Any:
        item = self.source[index]
        if self.preprocess is not None:
            return self.preprocess(item)
        return getattr(item, "image", item)

    def of(self, indices: Sequence[int]) -> NDArray[Any]:
        images = [self.image(i) for i in indices]
        if self.batch_size is None:
            made = np.stack([np.asarray(self.backbone(image)) for image in images])
        else:
            # The last batch too: another size would be compiled anew.
            images += images[-1:] * (self.batch_size - len(images))
            made = np.asarray(_of_all(self.backbone, jnp.stack(images)))
            made = made[: len(indices)]
        if made.ndim != 3:
            raise ValueError(
                "`backbone` must give (inputs, width) for one image, got shape"
                f" {made.shape[1:]}; of tokens leave out the class token, a feature map"
                ' is a set after `rearrange(x, "c h w -> (h w) c")`.'
            )
        return made

    def after(self, skip: int) -> Iterator[dict[str, NDArray[Any]] | None]:
        step = self.batch_size or 1
        for start in range(skip, len(self.source), step):
            indices = range(start, min(start + step, len(self.source)))
            for index, features in zip(indices, self.of(indices)):
                yield self.record(index, features)

    def record(self, index: int, features: NDArray[Any]) -> dict[str, NDArray[Any]]:
        if features.shape != self.shape:
            raise ValueError(
                f"All images must have as many features, image {index} has"
                f" {features.shape} and the first {self.shape}; bring images to one"
                " size by `preprocess`."
            )
        with np.errstate(over="ignore"):
            kept = features.astype(self.dtype)
        if not np.all(np.isfinite(kept)):
            largest = np.max(np.abs(features.astype(np.float32)))
            raise ValueError(
                f"The features of image {index}, {largest} at most, are none that"
                f" {self.dtype} can hold."
            )
        digest = np.frombuffer(_digest(kept.tobytes()), "u1")
        return {"features": kept, "digests": digest}


@eqx.filter_jit
def _of_all(backbone: Callable[[Any], Any], images: Any) -> Any:
    """The weights are an argument: what is closed over would be compiled in."""
    return jax.vmap(lambda image: backbone(image))(images)


def _write(
    folder: Path,
    identity: dict[str, Any],
    made: _Making,
    progress: Callable[[int], None] | None,
) -> None:
    unfinished = unfinished_of(folder)
    unfinished.mkdir(exist_ok=True)
    stated = unfinished / "identity.json"
    if stated.exists():
        _check_identity(unfinished, json.loads(stated.read_text()), identity)
    else:
        write_note(stated, identity)
    shapes = {"features": made.shape, "digests": (_DIGEST_BYTES,)}
    layout = Layout(shapes, {"features": made.dtype, "digests": "u1"})
    whole = json.dumps(identity | {"shape": made.shape})
    cure = 'keep them in half the bytes by `dtype="float16"`, or name another `path`'
    write_once(folder, whole, layout, made.after, None, progress, cure=cure)


def _opened(folder: Path, identity: dict[str, Any]) -> Features:
    """What is in a folder, if it is what it should be, to the last byte's place."""
    note = folder / "done.json"
    if not note.exists():
        raise ValueError(
            f"{folder} exists, and `features.cached` has not written it; name another"
            " `path`."
        )
    of = json.loads(note.read_text())["of"]
    inputs, width = of.pop("shape")
    _check_identity(folder, of, identity)
    path, images = folder / "features", of["images"]
    digests = _mapped(folder / "digests", "u1", (images, _DIGEST_BYTES))
    array = _mapped(path, of["dtype"], (images, inputs, width))
    if len(digests) < images:
        raise ValueError(
            f"{folder / 'digests'} is cut short: it should hold {images} digests, found"
            f" {len(digests)}; delete the folder to compute it anew."
        )
    if len(array) < images:
        index, rest = len(array), path.read_bytes()[array.nbytes :]
        _check_bytes(str(path), index, digests[index].tobytes(), rest)
    return Features(array, digests=digests, path=str(path))


def _mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """What a file holds of so many rows: fewer, if it was cut short."""
    record = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    rows = min(path.stat().st_size // record, shape[0])
    if rows == 0:
        return np.zeros((0, *shape[1:]), dtype)
    return Mapped(path, dtype, "r", shape=(rows, *shape[1:]))


def _check_identity(folder: Path, found: dict[str, Any], given: dict[str, Any]) -> None:
    names = {"backbone": "another backbone", "preprocessing": "other preprocessing"}
    names |= {"images": "another number of images", "dtype": "another `dtype`"}
    for name, other in (names | {"version": "another version"}).items():
        if found[name] != given[name]:
            digest = "digest " * (name in ("backbone", "preprocessing"))
            raise ValueError(
                f"{folder} was made with {other}: {digest}{found[name]} there,"
                f" {given[name]} given. Name another `path`, or delete that folder to"
                " compute it anew."
            )


def _check_bytes(path: str, index: int, stated: bytes, found: bytes) -> None:
    digest = _digest(found)
    if stated != digest:
        raise ValueError(
            f"{path} was cut short or has changed since it was written: the digest of"
            f" image {index} should be {stated.hex()}, found {digest.hex()}; delete the"
            " folder to compute it anew."
        )


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
