"""Keras' names: a scope that varies, then layers that are numbered as they are built.

    slot_attention_auto_encoder/slot_attention_1/layer_normalization_4/gamma:0
    `---------- scope --------'`----------- layer ---------------' leaf

Counters go on from whatever was built before in the same session, so only their order
means anything. Keras 3 names a layer inside a `Sequential` after both; Keras 2 leaves
out the `Sequential` and all that stands before it.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ._arrays import Names


_SEQUENTIALS = ("encoder_cnn", "decoder_cnn", "feedforward", "mlp")
_Kinds = tuple[str, ...]
_Counters = tuple[int, ...]
_Layers = dict[_Counters, dict[str, str]]


class _Parsed(NamedTuple):
    scope: tuple[str, ...]
    kinds: _Kinds  # of the layer, without counters
    counters: _Counters
    leaf: str


def keras_names(names: Iterable[str], entries: Iterable[str]) -> Names:
    """What each entry is called.

    Layers of one kind are taken in the order of their counters, and the entries' in
    theirs.
    """
    wanted: dict[_Kinds, _Layers] = {}
    for entry in entries:
        *layer, leaf = entry.split("/")
        kinds = tuple(map(_kind, layer))
        for known in dict.fromkeys((kinds, _bare(kinds, leaf))):
            counters = tuple(map(_counter, layer[len(layer) - len(known) :]))
            wanted.setdefault(known, {}).setdefault(counters, {})[leaf] = entry
    scope, parsed = _of_one_scope(names, wanted)
    given: dict[_Kinds, _Layers] = {}
    for name, (_, kinds, counters, leaf) in parsed.items():
        given.setdefault(kinds, {}).setdefault(counters, {}).setdefault(leaf, name)
    found: dict[str, str] = {}
    for kinds, layers in given.items():
        for counters, target in _pairs(layers, wanted[kinds]):
            for leaf, entry in wanted[kinds][target].items():
                if leaf in layers[counters]:
                    found.setdefault(entry, layers[counters][leaf])
    missing = {}
    layer_names = {_layer(entry): _layer(name) for entry, name in found.items()}
    for entry in entries:
        *layer, leaf = entry.split("/")
        in_scope = "/".join([*scope, *layer])
        name = f"{layer_names.get(_layer(entry), in_scope)}/{leaf}"
        missing[entry] = name.removeprefix("/")
    return Names(found, missing)


def _pairs(given: _Layers, wanted: _Layers) -> Iterable[tuple[_Counters, _Counters]]:
    if len(given) < len(wanted) and given.keys() <= wanted.keys():
        return zip(given, given)  # it is clear which are missing
    return zip(sorted(given), sorted(wanted))


def num_layers(names: Iterable[str], kind: str) -> int:
    """How many layers of a kind the names speak of."""
    layers = {tuple(name.split("/")[:-1]) for name in names if "/" in name}
    return sum(_kind(layer[-1]) == kind for layer in layers)


def _of_one_scope(
    names: Iterable[str], wanted: dict[_Kinds, _Layers]
) -> tuple[tuple[str, ...], dict[str, _Parsed]]:
    """The scope that most names fit, and these; others are of some other model."""
    parsed = {name: p for name in names if (p := _parsed(name, wanted)) is not None}

    def fits(scope: tuple[str, ...], whole: tuple[str, ...]) -> bool:
        rest = iter(whole)  # parts may be left out, as Keras does for some
        return all(part in rest for part in scope)

    def support(whole: tuple[str, ...]) -> tuple[int, int]:
        return sum(fits(p.scope, whole) for p in parsed.values()), len(whole)

    scope = max((p.scope for p in parsed.values()), key=support, default=())
    return scope, {name: p for name, p in parsed.items() if fits(p.scope, scope)}


def _parsed(name: str, wanted: dict[_Kinds, _Layers]) -> _Parsed | None:
    *parts, leaf = re.sub(r":\d+$", "", name).split("/")
    for start in range(len(parts) + 1):  # the longest layer that is known
        kinds = tuple(map(_kind, parts[start:]))
        if any(leaf in entries for entries in wanted.get(kinds, {}).values()):
            counters = tuple(map(_counter, parts[start:]))
            return _Parsed(tuple(parts[:start]), kinds, counters, leaf)
    return None


def _bare(kinds: _Kinds, leaf: str) -> _Kinds:
    """The layer as Keras 2 names it."""
    if leaf.startswith("slots_"):
        return ()
    cuts = [i + 1 for i, kind in enumerate(kinds) if kind in _SEQUENTIALS]
    return kinds[max(cuts, default=0) :]


def _layer(name: str) -> str:
    return name.rpartition("/")[0]


def _kind(part: str) -> str:
    return re.sub(r"_\d+$", "", part)


def _counter(part: str) -> int:
    return int(part.removeprefix(_kind(part))[1:] or 0)
