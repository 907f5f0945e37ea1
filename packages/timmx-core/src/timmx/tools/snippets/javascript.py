"""JavaScript for Node: sharp decodes the image, as a browser's canvas would; the resize is Pillow's arithmetic.

sharp can resize too, but libvips shifts enlarged images by half a pixel, shrinks large images in blocks first, and has
neither box nor hamming (measured with sharp 0.35.5, libvips 8.18.7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.tools.snippets.facts import STORED_RANGES, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.contract import Snippet
    from timmx.tools.snippets.facts import Facts

_FILTERS = {
    "box": (0.5, "x > -0.5 && x <= 0.5 ? 1 : 0"),
    "bilinear": (1, "Math.max(0, 1 - Math.abs(x))"),
    "hamming": (
        1,
        "x === 0 ? 1 : Math.abs(x) < 1"
        " ? (Math.sin(Math.PI * x) / (Math.PI * x)) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0",
    ),
    "bicubic": (
        2,
        "(x = Math.abs(x)) < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0",
    ),
    "lanczos": (
        3,
        "x === 0 ? 1 : Math.abs(x) < 3"
        " ? (3 * Math.sin(Math.PI * x) * Math.sin((Math.PI * x) / 3)) / (Math.PI * x) ** 2 : 0",
    ),
}
"""Pillow's filters (Resample.c): the support of each in pixels, and its weight at distance x."""

_ARRAYS = {"float32": "Float32Array", "uint8": "Uint8Array", "int8": "Int8Array", "int16": "Int16Array"}


def compose(facts: Facts, piece: Snippet) -> str:
    """The complete program, an ES module.

    Raises:
        ArtifactError: the element type of the input has no array type in JavaScript.
    """
    facts.require_dtype(_ARRAYS, "js")
    requires = " ".join(sorted({*piece.requires, "sharp"}))
    lines = [f"// npm install {requires}    save as run.mjs: node run.mjs photo.jpg"]
    if facts.ranks_classes and facts.labels and not facts.inline_labels:
        lines.append('import { readFileSync } from "node:fs";')
    lines += [
        *piece.imports,
        'import sharp from "sharp";',
        "",
        *piece.load,
        *_labels(facts),
        "",
        *_read(facts),
        "",
    ]
    lines += [
        *_stacked(facts, piece),
        *piece.run,
        *_answer(facts),
    ]
    return "\n".join(lines) + "\n"


def _labels(facts: Facts) -> Iterator[str]:
    if not (facts.ranks_classes and facts.labels):
        return
    if facts.inline_labels:
        yield f"const labels = [{facts.label_literals('js')}];"
    else:
        yield f'const labels = readFileSync("labels.txt", "utf8").split("\\n"); // {facts.labels_file_hint}'


def _read(facts: Facts) -> Iterator[str]:
    config, (height, width), channels = facts.preprocessor.data_config, facts.size, facts.channels
    cropped = config.crop_mode != "squash" or facts.scaled != facts.size
    padded = cropped and (
        config.crop_mode == "border" or config.crop_pct > 1
    )  # otherwise the crop is inside the image
    if cropped:
        yield "// Rounds halves to even, as Python does"
        yield "const round = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));"
        yield ""
    yield from _resize(facts)
    yield ""
    yield "async function read(path) {"
    yield "  // Decodes like Pillow, except CMYK, 16-bit gray and transparent GIF"
    turned = ".autoOrient()" if facts.preprocessor.turns else ""
    yield f'  const image = sharp(path, {{ ignoreIcc: true }}){turned}.removeAlpha().toColourspace("srgb").raw();'
    yield "  const { data, info } = await image.toBuffer({ resolveWithObject: true });"
    yield "  const { width, height } = info;"
    if facts.gray:
        yield "  const gray = new Uint8Array(width * height);"
        yield "  for (let i = 0; i < gray.length; i++) {"
        yield "    gray[i] = (19595 * data[3 * i] + 38470 * data[3 * i + 1] + 7471 * data[3 * i + 2] + 32768) >> 16;"
        yield "  }"
    yield from _scaled(facts)
    yield f"  const pixels = resize(resize({'gray' if facts.gray else 'data'}, width, height, w), height, w, h);"
    if padded:
        yield "  const offset = (beyond) => (beyond < 0 ? Math.ceil(beyond / 2) : round(beyond / 2));"
        yield f"  const [left, top] = [offset(w - {width}), offset(h - {height})];"
    elif cropped:
        yield f"  const [left, top] = [round((w - {width}) / 2), round((h - {height}) / 2)];"
    if padded and config.crop_mode == "border":
        yield f"  const fill = [{', '.join(str(round(255 * value)) for value in config.mean)}];"
    yield f"  const x = new {_ARRAYS[facts.dtype]}({channels} * {height} * {width});"
    if not facts.normalizes:
        yield f"  const mean = [{numbers(config.mean)}];"
        yield f"  const std = [{numbers(config.std)}];"
    yield f"  for (let i = 0; i < {height} * {width}; i++) {{"
    if cropped:
        yield f"    const [row, column] = [top + Math.trunc(i / {width}), left + (i % {width})];"
    if padded:
        yield "    const inside = row >= 0 && row < h && column >= 0 && column < w;"
    yield f"    for (let c = 0; c < {channels}; c++) {{"
    channel = "2 - c" if facts.preprocessor.color_order == "BGR" else "c"
    value = f"pixels[{_place('row * w + column' if cropped else 'i', channels, channel)}]"
    if padded:
        yield f"      const value = inside ? {value} : {'fill[c]' if config.crop_mode == 'border' else '0'};"
        value = "value"
    place = f"{channels} * i + c" if facts.layout == "NHWC" else f"{height} * {width} * c + i"
    yield f"      x[{place}] = {_value(facts, value)};"
    yield "    }"
    yield "  }"
    yield "  return x;"
    yield "}"


def _resize(facts: Facts) -> Iterator[str]:
    """Pillow's resize in integer arithmetic; Pillow 13 resizes the height of tall images first, which differs by 1."""
    name, channels = facts.preprocessor.data_config.interpolation.lower(), facts.channels
    source, target = _place("y * w + i", channels, "c"), _place("x * h + y", channels, "c")
    yield f"// One axis of Pillow's {name} resize: rows of w pixels become columns of `size`; run it once per axis"
    if name != "nearest":
        reach, weight = _FILTERS[name]
        yield f"const weigh = (x) => ({weight});"
    yield "function resize(pixels, w, h, size) {"
    yield f"  const out = new Uint8ClampedArray({channels} * size * h);"
    yield "  const scale = w / size;"
    if name == "nearest":
        yield "  for (let x = 0, center = scale / 2; x < size; x++, center += scale) {"
        yield "    const i = Math.trunc(center);"
        yield "    for (let y = 0; y < h; y++) {"
        yield f"      for (let c = 0; c < {channels}; c++) out[{target}] = pixels[{source}];"
        yield "    }"
    else:
        yield "  const stretch = Math.max(scale, 1);"
        yield "  for (let x = 0; x < size; x++) {"
        yield "    const center = (x + 0.5) * scale;"
        yield f"    const first = Math.max(0, Math.trunc(center - {reach} * stretch + 0.5));"
        yield f"    const last = Math.min(w, Math.trunc(center + {reach} * stretch + 0.5));"
        yield "    const weights = [];"
        yield "    for (let i = first; i < last; i++) weights.push(weigh((i - center + 0.5) / stretch));"
        yield "    const total = weights.reduce((a, b) => a + b);"
        yield "    const scaled = weights.map((weight) => Math.round((weight / total) * 2 ** 22));"
        yield "    for (let y = 0; y < h; y++) {"
        yield f"      for (let c = 0; c < {channels}; c++) {{"
        yield "        let sum = 2 ** 21;"
        yield f"        for (let i = first; i < last; i++) sum += scaled[i - first] * pixels[{source}];"
        yield f"        out[{target}] = sum >> 22;"
        yield "      }"
        yield "    }"
    yield "  }"
    yield "  return out;"
    yield "}"


def _scaled(facts: Facts) -> Iterator[str]:
    """The size that timm resizes an image to before the crop."""
    crop_mode, (tall, wide) = facts.preprocessor.data_config.crop_mode, facts.scaled
    if crop_mode == "squash":
        yield f"  const [w, h] = [{wide}, {tall}];"
    elif crop_mode != "border" and wide == tall:
        yield "  const short = Math.min(width, height);"
        yield f"  const [w, h] = [Math.trunc(({tall} * width) / short), Math.trunc(({tall} * height) / short)];"
    else:
        choose = "max" if crop_mode == "border" else "min"
        yield f"  const ratio = Math.{choose}(height / {tall}, width / {wide});"
        yield "  const [w, h] = [round(width / ratio), round(height / ratio)];"


def _place(pixel: str, channels: int, channel: str) -> str:
    return pixel if channels == 1 else f"{channels} * {pixel if pixel == 'i' else f'({pixel})'} + {channel}"


def _value(facts: Facts, source: str) -> str:
    if facts.takes_bytes:
        return source
    real = f"{source} / 255" if facts.normalizes else f"({source} / 255 - mean[c]) / std[c]"
    if facts.quantization is None:
        return real
    low, high = STORED_RANGES[facts.dtype]
    stored = f"Math.round(({real}) / {facts.quantization.scale!r}) + {facts.quantization.zero_point}"
    return f"Math.min({high}, Math.max({low}, {stored}))"


def _stacked(facts: Facts, piece: Snippet) -> Iterator[str]:
    count = facts.batch or piece.least_batch
    if count == 1:
        yield "const x = await read(process.argv[2]);"
        return
    yield f"const one = await read(process.argv[2]); // the file has a fixed batch size of {count}: copies of one image"
    yield f"const x = new {_ARRAYS[facts.dtype]}({count} * one.length);"
    yield f"for (let n = 0; n < {count}; n++) x.set(one, n * one.length);"


def _answer(facts: Facts) -> Iterator[str]:
    if not facts.ranks_classes:
        yield "console.log(output);"
        return
    count, stored = facts.answers[0], facts.output_quantization
    value = "v" if stored is None else f"{stored.scale!r} * (v - {stored.zero_point})"
    yield f"const answers = Array.from(output.slice(0, {count}), (v) => {value});"
    if not facts.exclusive:
        yield "answers.forEach((v, i) => { // the classes do not exclude each other"
        share = "1 / (1 + Math.exp(-v))" if facts.to_probabilities == "sigmoid" else "v"
        yield f"  console.log({'labels[i]' if facts.labels else 'i'}, ({share}).toFixed(6));"
        yield "});"
        return
    yield "const best = answers.indexOf(Math.max(...answers));"
    if facts.to_probabilities == "softmax":
        yield "const exps = answers.map((v) => Math.exp(v - answers[best]));"
        yield "const probability = exps[best] / exps.reduce((a, b) => a + b);"
    else:
        yield "const probability = answers[best];"
    yield f"console.log({'labels[best]' if facts.labels else 'best'}, probability.toFixed(6));"
