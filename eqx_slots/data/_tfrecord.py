"""TFRecord files of `tf.Example`s, read without TensorFlow.

A file is a row of records: eight bytes of length, their checksum, the record, its
checksum; here all of it compressed by gzip, which has a checksum of its own. A record
is a protocol buffer of named features. The files of Multi-Object Datasets keep every
byte of a picture as a value of its own, three bytes on the wire, and NumPy takes every
third.
"""

import gzip
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Field(NamedTuple):
    """A feature of a record: its shape, and whether its numbers are bytes or floats."""

    shape: tuple[int, ...]
    is_bytes: bool = False


def _crc_table() -> list[int]:
    """Of CRC-32C, Castagnoli's polynomial, for one byte at a time."""
    table: list[int] = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def masked_crc(data: bytes) -> int:
    """The checksum of TFRecord: CRC-32C, rotated, plus a constant."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read(path: Path) -> Iterator[bytes]:
    """The records of a file, gzipped or not, one after the other."""
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    number = 0
    with gzip.open(path) if is_gzip else open(path, "rb") as file:
        while True:
            try:
                head = file.read(12)
                length = int.from_bytes(head[:8], "little")
                if not head:
                    return
                wanted = int.from_bytes(head[8:], "little")
                if len(head) == 12 and masked_crc(head[:8]) != wanted:
                    raise _wrong(
                        path,
                        number,
                        "the checksum of its length is another: this is no TFRecord"
                        " file, or damaged",
                    )
                body = file.read(length + 4) if len(head) == 12 else b""
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise _wrong(path, number, f"gzip says: {error}") from error
            if len(head) < 12 or len(body) < length + 4:
                raise _wrong(path, number, "the file ends within it, it was cut short")
            yield body[:-4]
            number += 1


def parse(
    record: bytes, schema: Mapping[str, Field], path: Path, number: int
) -> dict[str, np.ndarray]:
    """The features of a record that the schema names, in their shapes."""
    found: dict[str, np.ndarray] = {}
    try:
        for _, features in _fields(memoryview(record)):
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                name = bytes(parts[1]).decode()
                if name in schema:
                    found[name] = _values(parts[2], schema[name].is_bytes)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise _wrong(path, number, f"it is no `tf.Example`: {error}") from error
    missing = ", ".join(repr(name) for name in schema if name not in found)
    if missing:
        has = ", ".join(sorted(found)) or "none of those expected"
        raise _wrong(path, number, f"it has no feature {missing}, but {has}")
    for name, (shape, is_bytes) in schema.items():
        if found[name].size != math.prod(shape):
            kind = "bytes" if is_bytes else "floats"
            problem = f"{name!r} has {found[name].size} numbers, expected are {kind}"
            raise _wrong(path, number, f"{problem} of {shape}")
        found[name] = found[name].reshape(shape)
    return found


def _fields(buffer: memoryview) -> Iterator[tuple[int, Any]]:
    """The numbered parts of a message: text and messages as views, the rest skipped."""
    at = 0
    while at < len(buffer):
        tag, at = _varint(buffer, at)
        number, kind = tag >> 3, tag & 7
        if kind == 2:
            length, at = _varint(buffer, at)
            if at + length > len(buffer):
                raise ValueError("a part is longer than what holds it")
            yield number, buffer[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(buffer, at)
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            yield number, buffer[at : at + width]
            at += width
        else:
            raise ValueError(f"a part of the unknown kind {kind}")


def _varint(buffer: memoryview, at: int) -> tuple[int, int]:
    """A number of as many bytes as it needs, and where it ends."""
    value = shift = 0
    while True:
        byte = buffer[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _values(feature: memoryview, is_bytes: bool) -> np.ndarray:
    """The numbers of a feature: of a list of bytes, or of a list of floats."""
    kinds = dict(_fields(feature))
    if (1 if is_bytes else 2) not in kinds:
        raise ValueError(f"a list of {'bytes' if is_bytes else 'floats'} is missing")
    if not is_bytes:
        parts = [bytes(part) for _, part in _fields(kinds[2])]  # packed, or one by one
        return np.frombuffer(b"".join(parts), "<f4")
    wire = np.frombuffer(kinds[1], np.uint8)
    triples = wire.reshape(-1, 3) if len(wire) % 3 == 0 else wire[:0].reshape(0, 3)
    if len(triples) and np.all(triples[:, :2] == (0x0A, 1)):
        return triples[:, 2]
    return np.frombuffer(b"".join(bytes(part) for _, part in _fields(kinds[1])), "u1")


def _wrong(path: Path, number: int, problem: str) -> ValueError:
    return ValueError(f"{path}, record {number}: {problem}.")
