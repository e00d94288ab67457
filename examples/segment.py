"""From pictures to masks: what a trained model finds in them, as files.

    python examples/segment.py PICTURE|FOLDER --model NAME|FILE [--output DIR]

NAME is one of `models.pretrained` that paints masks, such as `blocks`, and FILE what
`own_pictures.py` has left, with its `model.json` beside it. DIR gets, for each picture,
`masks/NAME.png`, an indexed PNG of the picture's own size (0 is background, and what
the model was not shown), `overlays/NAME.png`, and together `annotations.json`, boxes
and masks (RLE) in COCO's format. What does not look like the pictures that the model
has learned is named, for its masks mean nothing.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import tyro
from options import make_folder, refuse
from own_kind import complaints, figures_of, load_kind
from PIL import Image, ImageOps
from proposal import in_bytes, pictures_in
from pycocotools import mask as coco

from eqx_slots import serialisation, training, viz
from eqx_slots.data import pictures
from eqx_slots.models import model_card, pretrained


def read(path, kind):
    """A picture as it is, and as the model sees it."""
    with Image.open(path) as image:
        whole = ImageOps.exif_transpose(image)
        options = {name: kind[name] for name in ("fit", "channels")}
        rows, size = [{"image": whole}], tuple(kind["image_size"])
        seen = pictures.dataset(rows, image_size=size, **options)[0].image
        return in_bytes(whole), kind["black"] + (1 - kind["black"]) * seen


def place_of(whole, kind):
    """Where the model's picture lies in the whole: left, upper, right, lower."""
    (height, width), (wide, high) = kind["image_size"], whole.size
    if kind["fit"] == "stretch":
        return 0, 0, wide, high
    choose = min if kind["fit"] == "crop" else max
    scale = choose(wide / width, high / height)
    if kind["fit"] == "pad":
        scale = max(scale, 1)
    left, top = (wide - width * scale) / 2, (high - height * scale) / 2
    corners = left, top, left + width * scale, top + height * scale
    return tuple(round(corner) for corner in corners)


def masks_of(made, whole, kind):
    """The slots' shares of each pixel of the whole picture; outside, of none."""
    left, top, right, lower = place_of(whole, kind)
    size = right - left, lower - top
    canvas = np.zeros((len(made.masks), whole.height, whole.width), np.float32)
    for one, mask in zip(canvas, np.asarray(made.masks)):
        large = Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)
        page = Image.new("F", whole.size)
        page.paste(large, (left, top))  # what sticks out is the border of a pad
        one[:] = np.asarray(page)
    return canvas


def label(masks):
    """The owner of each pixel, from 1; 0 for whoever owns most of the edge."""
    owner = np.argmax(masks, axis=0)
    is_shown = np.max(masks, axis=0) > 0
    rows, columns = (np.flatnonzero(is_shown.any(axis=axis)) for axis in (1, 0))
    shown = owner[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    edge = np.concatenate([shown[0], shown[-1], shown[:, 0], shown[:, -1]])
    background = np.argmax(np.bincount(edge))
    is_object = is_shown & (owner != background)
    return np.where(is_object, 1 + owner, 0).astype(np.uint8)


def boxes_of(labels, masks, smallest):
    """An annotation for each object, in COCO's format."""
    found = []
    for number in np.unique(labels[labels > 0]):
        where = labels == number
        if where.sum() < smallest:
            continue  # less than a pixel or two of what the model sees
        rows, columns = (np.flatnonzero(where.any(axis=axis)) for axis in (1, 0))
        top, left = int(rows[0]), int(columns[0])
        sides = [int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
        box: dict[str, Any] = {"category_id": 1, "iscrowd": 0, "area": int(where.sum())}
        box |= {"bbox": [left, top, *sides], "label": int(number)}
        box["score"] = round(float(masks[number - 1][where].mean()), 4)
        found.append(box | {"segmentation": encoded(where)})
    return found


def encoded(where):
    """The mask as RLE, as JSON can hold it."""
    made: Any = coco.encode(np.asfortranarray(where.astype(np.uint8)))
    return made | {"counts": made["counts"].decode("ascii")}


def write(folder, name, whole, labels):
    """The indexed mask, and the picture under its colours."""
    for kind in ("masks", "overlays"):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
    colours = viz.segmentation(np.arange(256)[None])[0]
    mask = Image.fromarray(labels, "P")
    mask.putpalette(colours.tobytes())
    mask.save(folder / "masks" / f"{name}.png")
    mixed = Image.blend(whole, mask.convert("RGB"), 0.5)
    background = Image.fromarray(np.where(labels == 0, 255, 0).astype(np.uint8))
    Image.composite(whole, mixed, background).save(folder / "overlays" / f"{name}.png")


def load(model):
    """A model by its name or from its file, and what its own pictures are like."""
    if model.isidentifier():  # a file has a dot in its name
        try:
            card = model_card(model)
        except ValueError as error:
            refuse(f"--model {model}: {error}")
        if not card.quantiles:
            refuse(f"--model {model} says what objects are and paints no masks.")
        own = {"fit": "crop", "black": card.image_range[0]}
        return pretrained(model), card._asdict() | own
    path = Path(model)
    beside = path.with_suffix(".json")
    for one in (path, beside):
        if not one.is_file():
            refuse(f"--model needs {path} and {beside} beside it: no {one.name} there.")
    try:
        return serialisation.load(path), load_kind(beside)
    except ValueError as error:  # one of JSON is one as well
        refuse(f"--model {path} cannot be read: {error}")


def main(
    source: Annotated[Path, tyro.conf.Positional],
    model: str = "runs/own_pictures/model.safetensors",
    output: Path = Path("runs/segment"),
):
    """Masks, boxes and overlays of a picture, or of all in a folder."""
    network, kind = load(model)
    root = source.parent if source.is_file() else source
    paths = [source] if source.is_file() else pictures_in(source)
    if not paths:
        refuse(f"{source} is no picture, and no folder with pictures in it.")
    make_folder(output)
    see = eqx.filter_jit(lambda model, image: model(image, key=jr.key(0)))
    judge = jax.jit(lambda image, made: figures_of(image, made, kind["black"]))
    result = {"images": [], "annotations": [], "not_of_its_kind": {}}
    result["categories"] = [{"id": 1, "name": "object"}]
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            whole, seen = read(path, kind)
        except (OSError, SyntaxError, ValueError) as error:
            print(f"! {name} is left out: {error}")
            continue
        made = see(network, jnp.asarray(seen))
        batch = jax.tree.map(lambda x: x[None], (jnp.asarray(seen), made))
        figures = jax.tree.map(lambda x: x[0], judge(*batch))
        if found := complaints(figures, kind["quantiles"]):
            result["not_of_its_kind"][name] = found
            print(f"! {name} is not of this model's kind: {'; '.join(found)}.")
        masks = masks_of(made, whole, kind)
        labels, shown = label(masks), np.prod(kind["image_size"])
        smallest = 4 * whole.width * whole.height / shown
        boxes = boxes_of(labels, masks, smallest)
        write(output, name, whole, labels)
        entry = {"id": 1 + len(result["images"]), "file_name": name}
        entry |= {"width": whole.width, "height": whole.height}
        result["images"].append(entry)
        for box in boxes:
            number = 1 + len(result["annotations"])
            result["annotations"].append({"id": number, "image_id": entry["id"]} | box)
    (output / "annotations.json").write_text(json.dumps(result, indent=2) + "\n")
    counts = [len(result[x]) for x in ("images", "annotations", "not_of_its_kind")]
    print("{} pictures, {} objects, {} not of the model's kind".format(*counts))
    print(f"Look at {output / 'overlays'}")
    return result


if __name__ == "__main__":
    training.use_compilation_cache()
    tyro.cli(main)
