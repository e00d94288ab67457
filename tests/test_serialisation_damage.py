"""What `serialisation.load` refuses: damage, forgeries, other formats and models."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save_file

from eqx_slots import serialisation

from .helpers import float64
from .test_serialisation import bits, content, listed, saved, tiny, write_by_hand


def check_refused(path, data, match="."):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as error:
        serialisation.load(path, make=tiny)
    assert str(path) in str(error.value)
    assert "get the file again" in str(error.value)


@pytest.mark.usefixtures("as_users_run")
def test_flipped_bits_are_found_wherever_they_are(tmp_path):
    path, whole = saved(tmp_path)
    for position in range(len(whole)):
        for bit in range(position % 2, 8, 2):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            check_refused(path, data)


@pytest.mark.usefixtures("as_users_run")
def test_what_is_cut_off_or_added_is_found(tmp_path):
    path, whole = saved(tmp_path)
    longer = [whole + junk for junk in (b"\0", b" ", b"junk", whole)]
    for data in longer + [whole[:length] for length in range(len(whole))]:
        check_refused(path, data, "not a whole safetensors file")


@pytest.mark.usefixtures("as_users_run")
@settings(max_examples=150)
@given(data=st.data())
def test_no_damage_raises_anything_else(tmp_path_factory, data):
    path, whole = saved(tmp_path_factory.getbasetemp())
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start, min(len(whole), start + 40)))
    alphabet = st.sampled_from(b'"{}[]:,0189eE-.\\ \n\0\xffFBIU_adt')
    patch = st.one_of(st.lists(alphabet, max_size=40).map(bytes), st.binary())
    damaged = whole[:start] + data.draw(patch) + whole[stop:]
    if damaged != whole:
        check_refused(path, damaged)


def one_array(dtype, shape, stop):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, stop]}
    text = json.dumps({"a": entry})
    return len(text).to_bytes(8, "little") + text.encode() + bytes(stop)


OTHER = [
    b"\x93NUMPY not ours at all",
    (10**5).to_bytes(8, "little") + b"[" * 10**5,
    one_array("F32", [0, 2**63], 0),
    one_array("F32", [2**62], 4),
    one_array("F8_E4M3", [1], 1),
]


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("data", OTHER, ids=range(len(OTHER)))
def test_other_kinds_of_file_are_refused(tmp_path, data):
    check_refused(tmp_path / "x", data, "not a whole safetensors file .*another kind")


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "x"))):
        serialisation.load(tmp_path / "x")
    with pytest.raises(OSError, match=re.escape(f"a directory: '{tmp_path}'")):
        serialisation.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "no"))):
        saved(tmp_path / "no")


NEWER, FOREIGN = "newer eqx_slots has written it: upgrade", "save` has not written it"
FORMATS = [
    ({"format": "eqx_slots 2"}, NEWER),
    ({"format": "eqx_slots 10", "arguments": None}, NEWER),
    ({"format": "eqx_slots 0"}, FOREIGN),
    ({"format": "eqx_slots " + "9" * 5000}, FOREIGN),
    (dict.fromkeys(serialisation._METADATA), FOREIGN),
    ({"make": None}, FOREIGN),
    ({"sha256": None}, FOREIGN),
    ({"extra": "x"}, FOREIGN),
]


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("change, reason", FORMATS, ids=range(len(FORMATS)))
def test_other_formats_are_refused(tmp_path, change, reason):
    path = write_by_hand(tmp_path / "x", **change)
    message = f"must have the format 'eqx_slots 1' with .*'sha256'.*, found.*{reason}"
    check_refused(path, path.read_bytes(), message)


@pytest.mark.usefixtures("as_users_run")
def test_the_digest_is_of_everything(tmp_path):
    path, _ = saved(tmp_path)
    metadata, arrays = content(path)
    weight = arrays["['weight']"]
    others = [
        (metadata | {"arguments": '{"width": 2}'}, arrays),
        (metadata, arrays | {"['weight']": np.nextafter(weight, 2)}),
        (metadata, arrays | {"['weight']": weight.reshape(3, 2)}),
        (metadata, arrays | {"['weight']": weight.view(np.int32)}),
        (metadata, {name.replace("half", "calf"): x for name, x in arrays.items()}),
        (metadata, {k: x for k, x in arrays.items() if "none" not in k}),
    ]
    message = f"changed after saving: .* should be {metadata['sha256']}, found [0-9a-f]"
    for changed, entries in others:
        save_file(entries, path, metadata=changed)
        check_refused(path, path.read_bytes(), message)
    save_file(dict(reversed(arrays.items())), path, metadata=metadata)
    assert bits(serialisation.load(path, make=tiny)) == bits(tiny())


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("saves, builds, more", [(3, 2, 0), (9, 10, 0), (13, 12, 3)])
def test_a_file_of_another_model_names_all(tmp_path, saves, builds, more):
    def other(*, sizes, key):
        return listed(sizes=[7] * builds)

    path, arguments = tmp_path / "x", {"sizes": [5] * saves}
    serialisation.save(path, listed(**arguments), make=listed, arguments=arguments)
    with pytest.raises(ValueError, match=f"{path} needs the function .*`make=`") as e:
        serialisation.load(path, make=other)
    changed = str(e.value).count("should be float32[7], found float32[5]")
    absent = str(e.value).count("should be absent, found float32[5]")
    nothing = str(e.value).count("should be float32[7], found nothing")
    assert absent == (saves > builds) and nothing == (builds > saves)
    assert changed + absent + nothing == min(max(saves, builds), 10)
    assert (f"; and {more} arrays more" in str(e.value)) == (more > 0)


@pytest.mark.usefixtures("as_users_run")
def test_wide_numbers_need_wide_numbers_switched_on(tmp_path):
    with float64():
        path, _ = saved(tmp_path, dtype="float64")
    with pytest.raises(ValueError, match=r"`jax_enable_x64` if .*weight'\]` should be"):
        serialisation.load(path, make=tiny)
