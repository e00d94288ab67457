"""What `autoencoder.py` draws: pictures in [0, 1], a scene to a row."""

from PIL import Image

from eqx_slots import viz


def sheet(rows):
    """Rows of small pictures, three times as large, on one."""
    return Image.fromarray(viz.grid([[viz.enlarge(p, 3) for p in row] for row in rows]))


def slot_sheet(images, made, black):
    """Input, reconstruction, the slot that owns each pixel, what each slot paints."""
    visible = lambda image: (image - black) / (1 - black)
    painted = zip(visible(images), visible(made.image), visible(made.rgb), made.masks)
    return sheet([viz.slot_row(*four) for four in painted])


def attention_sheet(images, made, black):
    """Where each slot looks."""
    visible = (images - black) / (1 - black)
    return sheet(list(map(viz.attention_row, visible, made.attention)))
