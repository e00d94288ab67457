import json
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from eqx_slots import losses, metrics, serialisation
from eqx_slots.models import SlotVideo

from .test_examples import load


pytestmark = pytest.mark.usefixtures("as_users_run", "kept_programs")


@pytest.fixture
def video(monkeypatch):
    module, scores = load("video"), load("clip_scores")
    for name in ("LONG", "CHUNK"):
        monkeypatch.setattr(scores, name, 8 if name == "LONG" else 2)
    monkeypatch.setattr(module, "LONG", 8)
    monkeypatch.setattr(module, "HELD_OUT", 4)
    for name in ("draw", "figures", "watch"):
        monkeypatch.setattr(module, name, getattr(scores, name))
    return module


def test_video_writes_what_it_promises(video, tmp_path):
    """From hints, which the other way is a part of."""
    sizes = {"num_frames": 3, "batch_size": 2, "steps": 2, "objects": (2, 2)}
    arguments = video.Arguments(hints="boxes", output=tmp_path, **sizes)
    result = video.main(arguments)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoints", "metrics.json", "options.json", "history.jsonl"),
        *("video.gif", "training.png", "model.safetensors"),
    }
    assert json.loads((tmp_path / "metrics.json").read_text()) == result
    assert 0 < result["mse"] < 1
    assert result["ahead_1"] > 0
    assert result["kept"] <= result["hidden"]
    assert result["switches"] <= result["held"]
    model = serialisation.load(tmp_path / "model.safetensors")
    assert isinstance(model, SlotVideo)
    slots = 3  # of the background and the two blocks
    with Image.open(tmp_path / "video.gif") as image:
        assert image.n_frames == 8
        assert image.size[0] == (3 + slots) * (64 + 2) + 2


class Clips(NamedTuple):
    """As much of clips as is counted."""

    images: jax.Array


def test_figures_are_means_over_all_clips_that_have_them(monkeypatch):
    """Two chunks of two clips: the second clip has no FG-ARI, and the third no ARI."""
    scores = load("clip_scores")
    monkeypatch.setattr(scores, "CHUNK", 2)
    score = lambda value, valid: metrics.Score(jnp.array(value), jnp.array(valid))
    parts = iter([0, 2])

    def measured(_, clips):
        assert len(clips.images) == 2
        first = next(parts) == 0
        found = dict.fromkeys(scores.FIGURES, jnp.array(float(first)))
        found["fg_ari"] = score([0.0, 9.0] if first else [1.0, 1.0], [True, not first])
        found["ari"] = score([0.0, 0.0] if first else [9.0, 3.0], [first, True])
        return found

    monkeypatch.setattr(scores, "_measure", measured)
    found = scores.figures(None, Clips(jnp.zeros((4, 1))))
    assert found["fg_ari"] == pytest.approx(2 / 3)
    assert found["ari"] == pytest.approx(1.0)
    assert (found["mse"], found["held"]) == (0.5, 1.0)


@pytest.fixture
def own(monkeypatch, tmp_path):
    """The example for videos of one's own, and options for a GIF of moving squares."""
    module = load("own_videos")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    frames = np.zeros((15, 12, 12, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[number % 8 :, 3:][:4, :4] = 255, 40 + number, 0
    first, *others = map(Image.fromarray, frames)
    (tmp_path / "videos").mkdir()
    path = tmp_path / "videos" / "square.gif"
    first.save(path, save_all=True, append_images=others)
    sizes = {"num_frames": 3, "batch_size": 2, "image_size": (12, 12), "num_slots": 2}
    return module, partial(module.Arguments, folder=tmp_path / "videos", **sizes)


def test_own_videos(own, tmp_path, capsys):
    module, arguments = own
    result = module.main(arguments(steps=2, output=tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("checkpoints", "metrics.json", "options.json", "history.jsonl"),
        *("video.gif", "training.png", "model.safetensors"),
    }
    assert 0 < result["error"] < 9
    assert "3 clips to train on, 2 held out" in capsys.readouterr().out
    model = serialisation.load(tmp_path / "out" / "model.safetensors")
    assert model.decoder.image_size == (12, 12)
    with Image.open(tmp_path / "out" / "video.gif") as image:
        assert image.n_frames == 3


def test_own_videos_are_split_by_name(own, capsys):
    module, arguments = own
    source, others = module.read(arguments())
    assert source.names == ("square.gif[0:3]", "square.gif[3:6]", "square.gif[6:9]")
    assert others.names == ("square.gif[9:12]", "square.gif[12:15]")
    clips = module.as_seen(np.stack([clip.images for clip in others]), 0.5, 0.2)
    assert (float(clips.images.min()), float(clips.images.max())) == (-1, 1)
    assert clips.sparsity.tolist() == [0.5, 0.5]
    np.testing.assert_allclose(clips.early_gradient, [0.2, 0.2])
    for options, sentence in (
        ({"batch_size": 4}, "has 5 clips, too few for --batch-size 4"),
        ({"num_frames": 20}, "such as square.gif: of 20 frames for a clip it has 15"),
    ):
        with pytest.raises(SystemExit):
            module.read(arguments(**options))
        assert sentence in capsys.readouterr().err


def test_own_videos_are_trained_by_the_same_rules(own, monkeypatch):
    module, arguments = own
    seen, chosen = [], arguments(steps=10)
    monkeypatch.setattr(module, "follow", lambda *parts, **_: seen.append(parts[3]))
    source, _ = module.read(chosen)
    module.train(chosen, source, None, None)
    batches = [seen[0](jnp.asarray(step)) for step in (2, 4, 5)]
    early = [float(batch.early_gradient[0]) for batch in batches]
    np.testing.assert_allclose(early, [0, 0.5, 1], atol=1e-6)
    sparsity = [float(batch.sparsity[0]) for batch in batches]
    np.testing.assert_allclose(sparsity, [0.5e-2, 1e-2, 1e-2], rtol=1e-6)


def test_what_is_foretold_is_compared_with_what_came(video):
    """Between two frames there is one that can be foretold, from the first alone."""
    arguments = video.Arguments(num_frames=2, batch_size=2, objects=(2, 2))
    clips = video.paint(jax.random.key(0), 2, 2, arguments)
    make = partial(video.presets.block_videos, **arguments.built_with)
    model = eqx.filter_jit(make)(key=jax.random.key(1))
    made = eqx.filter_jit(video.watch)(model, clips)
    paint = eqx.filter_jit(jax.vmap(lambda slots: model.paint(slots[None]).images[0]))
    expected = losses.mean_squared_error(
        paint(made.predicted[:, 0]), clips.images[:, 1]
    )
    foretold = eqx.filter_jit(video.foretell)(model, made, clips, jax.random.key(2))
    np.testing.assert_allclose(foretold, expected, rtol=1e-5)


def test_clips_as_the_model_sees_them(video):
    module = load("clips")
    arguments = module.Arguments(num_frames=4, batch_size=2, objects=(2, 3))
    clips = module.paint(jax.random.key(3), 2, 4, arguments)
    assert clips.images.shape == (2, 4, 3, 32, 32)
    assert -1 <= float(clips.images.min()) < -0.5 < 0.5 < float(clips.images.max()) <= 1
    assert bool(jnp.all(clips.there[:, 0]))
    for there, boxes, labels in zip(clips.there, clips.boxes, clips.segmentation):
        for number in range(1, 4):
            seen = np.argwhere(labels[0] == number)
            assert bool(there[number]) == (len(seen) > 0)
            if len(seen):
                edges = [*seen.min(axis=0), *(seen.max(axis=0) + 1)]
                np.testing.assert_allclose(32 * boxes[number - 1], edges, rtol=1e-6)


def test_all_clips_in_half_and_half_of_them_whole():
    module = load("clips")
    arguments = module.Arguments(num_frames=6, batch_size=2)
    at = module.clips_at(jax.random.key(0), arguments)
    clips = module.as_seen(jax.jit(at)(3), 0.5, 0.2)
    assert clips.images.shape == (4, 6, 3, 32, 32)
    short, whole = module.short(clips), module.whole(clips)
    for name in ("images", "segmentation", "boxes"):
        every, cut, first = (getattr(of, name) for of in (clips, short, whole))
        np.testing.assert_array_equal(cut, every if name == "boxes" else every[:, :3])
        np.testing.assert_array_equal(first, every[:2])
    assert short.sparsity.tolist() == 4 * [0.5]
    assert whole.sparsity.tolist() == 2 * [0.5]
    assert module.short(short).images.shape[1] == 2  # one would foretell nothing


def test_training_begins_with_short_clips_and_ends_with_whole_ones(video, monkeypatch):
    arguments = video.Arguments(steps=10, num_frames=6, batch_size=2, objects=(2, 2))
    seen = []
    keep = lambda arguments, step, state, batches, *rest, **options: seen.append(
        batches
    )
    monkeypatch.setattr(video, "follow", keep)
    video.train(arguments, None)
    shapes = [seen[0](jnp.asarray(step)).images.shape[:2] for step in (3, 4)]
    assert shapes == [(4, 3), (2, 6)]
    early = [float(seen[0](jnp.asarray(step)).early_gradient[0]) for step in (3, 4, 5)]
    np.testing.assert_allclose(early, [0, 0.5, 1], atol=1e-6)


def test_the_loss_foretells_whole_clips_alone_and_cuts_the_gradient(video, monkeypatch):
    arguments = video.Arguments(num_frames=2, batch_size=2, objects=(2, 2))
    clips = video.paint(jax.random.key(0), 2, 2, arguments)
    clips = clips._replace(early_gradient=jnp.full(2, 0.25))
    make = partial(video.presets.block_videos, **arguments.built_with)
    model, shares, watch = eqx.filter_jit(make)(key=jax.random.key(1)), [], video.watch

    def spied(model, clips, *, early_gradient):
        jax.debug.callback(lambda share: shares.append(float(share)), early_gradient)
        return watch(model, clips, early_gradient=early_gradient)

    monkeypatch.setattr(video, "watch", spied)
    of = eqx.filter_jit(partial(video.loss, ahead=0.5))
    key = jax.random.key(2)
    assert float(of(model, clips, key)[1]["foretold"]) > 0
    assert float(of(model, clips, key, min_frames=3)[1]["foretold"]) == 0
    jax.effects_barrier()
    assert shares == [0.25, 0.25]


def test_steps_and_rate_are_those_of_the_scenes_unless_said():
    make = load("clips").Arguments
    found = [(a.steps, a.rate) for a in (make(), make(hints="boxes"))]
    assert found == [(3400, 6e-3), (6000, 3e-3)]
    said = make(steps=7, rate=1e-3)
    assert (said.steps, said.rate) == (7, 1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 1}, "--num-frames must lie from 2 to 24, got 1"),
        ({"ahead": -1.0}, "--ahead must be 0 or more, got -1.0"),
        ({"batch_size": 3, "devices": 2}, "--batch-size 3 does not divide among"),
        ({"scenes": "sprites", "occlusion": True}, "--occlusion is no option"),
        ({"objects": (1, 4), "occlusion": True}, "clips cannot be painted: `occlusion"),
        ({"scenes": "solids", "pool": 4}, "--pool must be twice --batch-size"),
        ({"objects": (3, 2)}, "--objects must be two numbers from 1 to 6"),
    ],
)
def test_a_mistake_in_an_option(options, message, capsys):
    with pytest.raises(SystemExit):
        load("clips").Arguments(**options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 1}, "--num-frames must be 2 or more, got 1"),
        ({"num_slots": 0}, "--num-slots must be more than 0, got 0"),
        ({"sparsity": -1.0}, "--sparsity must be 0 or more, got -1.0"),
        ({"seeds": 2}, "--seeds is no option here, got 2"),
        ({"batch_size": 3, "devices": 2}, "--batch-size 3 does not divide among"),
    ],
)
def test_a_mistake_in_an_option_of_own_videos(options, message, capsys):
    with pytest.raises(SystemExit):
        load("own_videos").Arguments(**options)
    assert message in capsys.readouterr().err
