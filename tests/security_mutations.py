"""Damages the files of each format for fuzz tests: at random, but the same for the same seed.

A mutation changes raw bytes (cut, flipped, replaced by extreme numbers), or one field of a parsed file (protobuf,
flatbuffer, XML, JSON, members of a zip archive) to a value that a reader may not expect. Most bytes of a file are
weights, where a change is only another number; raw changes prefer the bytes between them.
"""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

INTEGERS = (0, 1, -1, 2, 127, 255, 256, 2**15, 2**16, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**62, 2**63 - 1)
MARKER = "timmx-marker"
"""The name of a file that no command may create."""
TEXTS = (
    f"__import__('pathlib').Path('{MARKER}').touch()",
    f"$(touch {MARKER})",
    "",
    "x",
    "../x",
    "/etc/passwd",
    "a" * 5000,
    "\0",
    "\x1b[2J",
    "\u2028",
    "%s%n",
    "@model_path/../x",
    "é" * 300,
)
NUMBERS = (0, -1, 1e308, 2**63, 2**70, 1.5, 10**30)


def mutate(source: Path, target: Path, rng: random.Random) -> str:
    """Write a damaged copy of an artifact, with the files that belong to it.

    Args:
        source: the artifact, a file or a folder.
        target: its copy, with the same suffix.
        rng: the source of all choices.

    Returns:
        What was changed.
    """
    if source.is_dir():
        shutil.copytree(source, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
    else:
        shutil.copyfile(source, target)
        files = [target]
    for companion in companions(source):
        copy = target.with_name(companion.name.replace(source.stem, target.stem))
        shutil.copyfile(companion, copy)
        files.append(copy)
    path = rng.choice(files)
    if source.is_dir() and rng.random() < 0.05:
        path.unlink()
        return f"{path.name}: deleted"
    kinds: list[Callable[[bytes, random.Random], bytes]] = [_truncate, _flip, _extremes, _overwrite]
    if kind := _parsed(path):
        kinds += [kind] * 6
    kind = rng.choice(kinds)
    content = kind(path.read_bytes(), rng)
    path.write_bytes(content)
    return f"{path.name}: {kind.__name__.strip('_')}"


def companions(path: Path) -> list[Path]:
    """The files next to an artifact that belong to it: `m.onnx.data`, `m.engine.json`, `m.bin` or `m.ptd`."""
    return sorted(other for other in path.parent.glob(f"{path.stem}.*") if other != path)


def _parsed(path: Path) -> Callable[[bytes, random.Random], bytes] | None:
    """The mutation of a file's structure, by its suffix."""
    return {
        ".onnx": _onnx,
        ".mlmodel": _core_ml,
        ".tflite": _flatbuffer,
        ".pt2": _zip,
        ".json": _json_file,
        ".xml": _xml,
        ".pte": _program,
    }.get(path.suffix)


# Raw bytes


def _truncate(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return content[: rng.choice((0, 1, 4, 8, 20, 64, len(content) - 1))]
    return content[: rng.randrange(len(content) + 1)]


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _extremes(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    size = rng.choice((1, 2, 4, 4, 8))
    place = _place(content, rng)
    place -= place % size
    changed[place : place + size] = (rng.choice(INTEGERS) % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(changed)


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    """Replace, insert or delete a few bytes."""
    place, size = _place(content, rng), rng.choice((1, 4, 16, 64))
    new = bytes(rng.randrange(256) for _ in range(size))
    return content[:place] + rng.choice((new, b"")) + content[place + rng.choice((0, size)) :]


def _place(content: bytes, rng: random.Random) -> int:
    """An index of a byte, mostly one that is not part of a weight."""
    for _ in range(200):
        place = rng.randrange(max(1, len(content)))
        window = content[max(0, place - 16) : place + 16]
        readable = sum(32 <= byte < 127 for byte in window)
        if window.count(0) > 5 or readable > 24:
            return place
    return rng.randrange(max(1, len(content)))


# Protobuf: ONNX, Core ML


def _onnx(content: bytes, rng: random.Random) -> bytes:
    import onnx

    return _message(onnx.ModelProto(), content, rng)


def _core_ml(content: bytes, rng: random.Random) -> bytes:
    from timmx_coreml.schema import schema

    return _message(schema("Model_pb2").Model(), content, rng)


def _message(message: Any, content: bytes, rng: random.Random) -> bytes:
    message.ParseFromString(content)
    for _ in range(rng.choice((1, 1, 1, 3))):
        _change_message(message, rng)
    return message.SerializeToString()


def _change_message(message: Any, rng: random.Random) -> None:
    """Walk down to a random message, and change one of its fields."""
    while True:
        fields = message.ListFields()
        below = [part for field, value in fields if field.message_type for part in _parts(field, value)]
        if below and rng.random() < 0.85:
            message = rng.choice(below)
            continue
        fields = [(field, value) for field, value in fields]
        if not fields:
            descriptors = [field for field in message.DESCRIPTOR.fields if not field.message_type]
            if descriptors:
                _set(message, rng.choice(descriptors), rng)
            return
        field, value = rng.choice(fields)
        if rng.random() < 0.2:
            message.ClearField(field.name)
        elif field.message_type and field.message_type.GetOptions().map_entry:
            key = rng.choice(sorted(value)) if value else None
            if key is not None:
                del value[key]
        elif field.message_type and field.is_repeated:
            if rng.random() < 0.5:
                value.append(rng.choice(list(value)))
            else:
                del value[rng.randrange(len(value))]
        elif field.message_type:
            message.ClearField(field.name)
        else:
            _set(message, field, rng)
        return


def _parts(field: Any, value: Any) -> list[Any]:
    if field.message_type.GetOptions().map_entry:
        values = list(value.values())
        return values if values and hasattr(values[0], "ListFields") else []
    return list(value) if field.is_repeated else [value]


def _set(message: Any, field: Any, rng: random.Random) -> None:
    """Set a field without messages to an extreme value of its type."""
    kinds = type(field)
    if field.cpp_type == kinds.CPPTYPE_STRING:
        text = rng.choice(TEXTS)
        new: Any = text.encode() if field.type == kinds.TYPE_BYTES else text
    elif field.cpp_type in (kinds.CPPTYPE_FLOAT, kinds.CPPTYPE_DOUBLE):
        new = rng.choice((0.0, -1.0, 1e38, float("inf"), float("nan")))
    elif field.cpp_type == kinds.CPPTYPE_BOOL:
        new = rng.random() < 0.5
    elif field.cpp_type == kinds.CPPTYPE_ENUM:
        new = rng.choice(field.enum_type.values).number
    else:
        bits = 64 if field.cpp_type in (kinds.CPPTYPE_INT64, kinds.CPPTYPE_UINT64) else 32
        new = rng.choice(INTEGERS) % 2**bits
        if field.cpp_type in (kinds.CPPTYPE_INT64, kinds.CPPTYPE_INT32) and new >= 2 ** (bits - 1):
            new -= 2**bits
    if field.is_repeated:
        values = getattr(message, field.name)
        if len(values) and rng.random() < 0.7:
            values[rng.randrange(len(values))] = new
        else:
            values.append(new)
    else:
        setattr(message, field.name, new)


# Flatbuffers: LiteRT


def _flatbuffer(content: bytes, rng: random.Random) -> bytes:
    import flatbuffers
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for _ in range(rng.choice((1, 1, 1, 3))):
        _change_table(model, rng, np)
    builder = flatbuffers.Builder(len(content) + 2**16)
    try:
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    except (AttributeError, OverflowError, TypeError, ValueError, IndexError, struct.error):
        return _extremes(content, rng)  # a value that the writer cannot express
    return bytes(builder.Output())


def _change_table(table: Any, rng: random.Random, np: Any) -> None:
    while True:
        values = {name: value for name, value in vars(table).items() if value is not None}
        below = [
            part
            for value in values.values()
            for part in (value if isinstance(value, list) else [value])
            if type(part).__module__.endswith("schema_py_generated")
        ]
        if below and rng.random() < 0.85:
            table = rng.choice(below)
            continue
        if not values:
            return
        name = rng.choice(sorted(values))
        value = values[name]
        if isinstance(value, list):
            if rng.random() < 0.5 and value:
                del value[rng.randrange(len(value))]
            else:
                value += value[:1]
        elif isinstance(value, np.ndarray):
            changed = value.copy()
            if changed.size and rng.random() < 0.7:
                limits = np.iinfo(value.dtype) if value.dtype.kind in "iu" else None
                new = rng.choice(INTEGERS)
                changed[rng.randrange(changed.size)] = (
                    max(limits.min, min(limits.max, new)) if limits else new
                )
            else:
                changed = changed[: changed.size // 2]
            setattr(table, name, changed)
        elif isinstance(value, bool):
            setattr(table, name, not value)
        elif isinstance(value, int):
            setattr(table, name, rng.choice(INTEGERS))
        elif isinstance(value, float):
            setattr(table, name, rng.choice((0.0, -1.0, float("inf"), float("nan"))))
        elif isinstance(value, (bytes, str)):
            setattr(table, name, rng.choice(TEXTS))
        else:
            setattr(table, name, None)
        return


# ExecuTorch


def _program(content: bytes, rng: random.Random) -> bytes:
    """Change bytes of the flatbuffer, without the segments behind it."""
    size = int.from_bytes(content[16:24], "little")
    return rng.choice((_flip, _extremes, _overwrite))(content[:size], rng) + content[size:]


# XML: OpenVINO


def _xml(content: bytes, rng: random.Random) -> bytes:
    root = ElementTree.fromstring(content)
    for _ in range(rng.choice((1, 1, 1, 3))):
        _change_element(root, rng)
    return ElementTree.tostring(root)


def _change_element(root: ElementTree.Element, rng: random.Random) -> None:
    """Walk down to a random element, and change it."""
    while len(root) and rng.random() < 0.85:
        parent, root = root, rng.choice(root)
        if rng.random() < 0.05:
            parent.remove(root)
        elif rng.random() < 0.05:
            parent.append(root)
    if not root.attrib:
        root.text = _text(root.text or "", rng)
        return
    name = rng.choice(sorted(root.attrib))
    if rng.random() < 0.1:
        del root.attrib[name]
    else:
        root.attrib[name] = _text(root.attrib[name], rng)


def _text(text: str, rng: random.Random) -> str:
    """Another text; XML cannot hold control characters."""
    if text.startswith("{"):
        return _json_file(text.encode(), rng).decode()
    choice = str(rng.choice((*TEXTS, *NUMBERS, *INTEGERS, f"{text}{text}", f"-{text}", f"{text},{text}")))
    return "".join(character for character in choice if character >= " ")


# JSON, and zip archives of JSON and raw tensors


def _json_file(content: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.1:
        return b"[" * rng.choice((65, 5000)) + content
    value = _change_json(json.loads(content), rng)
    return json.dumps(value).encode()


def _change_json(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(sorted(value))
        if rng.random() < 0.05:
            return {other: item for other, item in value.items() if other != key}
        return value | {key: _change_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.93:
        place = rng.randrange(len(value))
        return [*value[:place], _change_json(value[place], rng), *value[place + 1 :]]
    return rng.choice((None, True, [], {}, [1, [2]], {"a": None}, *TEXTS, *NUMBERS, *INTEGERS))


def _zip(content: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    texts = [name for name, data in members.items() if data[:1] in b"{["]
    name = rng.choice(texts if texts and rng.random() < 0.8 else sorted(members))
    choice = rng.random()
    if choice < 0.1:
        del members[name]
    elif name in texts and choice < 0.9:
        members[name] = _json_file(members[name], rng)
    else:
        members[name] = _truncate(members[name], rng)
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data)
    return output.getvalue()
