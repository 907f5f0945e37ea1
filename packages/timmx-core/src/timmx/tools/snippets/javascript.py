"""JavaScript for Node: sharp makes the image what the file takes; a browser's canvas would stand in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.errors import ArtifactError
from timmx.tools.snippets.facts import numbers, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.contract import Snippet
    from timmx.tools.snippets.facts import Facts

_KERNELS = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic", "lanczos": "lanczos3"}
_ARRAYS = {"float32": "Float32Array", "uint8": "Uint8Array", "int8": "Int8Array", "int16": "Int16Array"}


def compose(facts: Facts, piece: Snippet) -> str:
    """The whole program, an ES module.

    Raises:
        ArtifactError: the element type of the input has no array in JavaScript.
    """
    if facts.dtype not in _ARRAYS:
        raise ArtifactError(f"{facts.name} takes {facts.dtype}, for which there is no snippet in js.")
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
        yield f"const labels = [{', '.join(map(quoted, facts.inline_labels))}];"
    else:
        yield f'const labels = readFileSync("labels.txt", "utf8").split("\\n"); // {facts.labels_file_hint}'


def _read(facts: Facts) -> Iterator[str]:
    config, (height, width), (tall, wide) = facts.recipe.config, facts.size, facts.scaled
    yield "async function read(path) {"
    known = config.interpolation in _KERNELS
    kernel = _KERNELS.get(config.interpolation, "cubic")
    if not known:
        yield f"  // timm resizes with {config.interpolation}, which sharp does not have: {kernel} comes close."
    yield '  const image = sharp(path).removeAlpha().toColourspace("srgb");'
    yield "  const { width, height } = await image.metadata();"
    if config.crop_mode == "squash":
        yield f"  const [w, h] = [{wide}, {tall}];"
    elif config.crop_mode != "border" and wide == tall:
        yield "  const short = Math.min(width, height);"
        yield f"  const [w, h] = [Math.trunc(({tall} * width) / short), Math.trunc(({tall} * height) / short)];"
    else:
        choose = "max" if config.crop_mode == "border" else "min"
        yield f"  const ratio = Math.{choose}(height / {tall}, width / {wide});"
        yield "  const [w, h] = [Math.round(width / ratio), Math.round(height / ratio)];"
    yield "  const pixels = await image"
    yield f'    .resize(w, h, {{ fit: "fill", kernel: "{kernel}", fastShrinkOnLoad: false }})'
    yield from _crop(facts)
    if facts.gray:
        yield '    .toColourspace("b-w")'
    yield "    .raw()"
    yield "    .toBuffer();"
    yield f"  const x = new {_ARRAYS[facts.dtype]}({facts.channels} * {height} * {width});"
    if not facts.normalizes:
        yield f"  const mean = [{numbers(config.mean)}];"
        yield f"  const std = [{numbers(config.std)}];"
    yield f"  for (let i = 0; i < {height} * {width}; i++) {{"
    yield f"    for (let c = 0; c < {facts.channels}; c++) {{"
    source = f"pixels[{facts.channels} * i + c]" if facts.channels > 1 else "pixels[i]"
    if facts.recipe.color_order == "BGR":
        source = "pixels[3 * i + 2 - c]"
    place = f"{facts.channels} * i + c" if facts.layout == "NHWC" else f"{height} * {width} * c + i"
    yield f"      x[{place}] = {_value(facts, source)};"
    yield "    }"
    yield "  }"
    yield "  return x;"
    yield "}"


def _crop(facts: Facts) -> Iterator[str]:
    config, (height, width) = facts.recipe.config, facts.size
    if config.crop_mode == "squash" and facts.scaled == facts.size:
        return
    if config.crop_mode != "border" and config.crop_pct <= 1:
        yield (
            f"    .extract({{ left: Math.round((w - {width}) / 2), top: Math.round((h - {height}) / 2), "
            f"width: {width}, height: {height} }})"
        )
        return
    red, green, blue = (*(round(255 * value) for value in config.mean), 0, 0)[:3]
    if facts.gray:
        green = blue = red
    if config.crop_mode != "border":
        red = green = blue = 0
    yield (
        f"    .extend({{ top: {height}, bottom: {height}, left: {width}, right: {width}, "
        f"background: {{ r: {red}, g: {green}, b: {blue} }} }})"
    )
    yield (
        f"    .extract({{ left: Math.round((w + {width}) / 2), top: Math.round((h + {height}) / 2), "
        f"width: {width}, height: {height} }})"
    )


def _value(facts: Facts, source: str) -> str:
    if facts.takes_bytes:
        return source
    real = f"{source} / 255" if facts.normalizes else f"({source} / 255 - mean[c]) / std[c]"
    if facts.quantization is None:
        return real
    low, high = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}[facts.dtype]
    stored = f"Math.round(({real}) / {facts.quantization.scale!r}) + {facts.quantization.zero_point}"
    return f"Math.min({high}, Math.max({low}, {stored}))"


def _stacked(facts: Facts, piece: Snippet) -> Iterator[str]:
    count = facts.batch or piece.least_batch
    if count == 1:
        yield "const x = await read(process.argv[2]);"
        return
    yield f"const one = await read(process.argv[2]); // the file takes {count} images at once: one and its copies"
    yield f"const x = new {_ARRAYS[facts.dtype]}({count} * one.length);"
    yield f"for (let n = 0; n < {count}; n++) x.set(one, n * one.length);"


def _answer(facts: Facts) -> Iterator[str]:
    if not facts.ranks_classes:
        yield "console.log(output);"
        return
    count, stored = facts.answers[0], facts.output_quantization
    value = "v" if stored is None else f"{stored.scale!r} * (v - {stored.zero_point})"
    yield f"const answers = Array.from(output.slice(0, {count}), (v) => {value});"
    yield "const best = answers.indexOf(Math.max(...answers));"
    if facts.kind == "logits":
        yield "const exps = answers.map((v) => Math.exp(v - answers[best]));"
        yield "const probability = exps[best] / exps.reduce((a, b) => a + b);"
    else:
        yield "const probability = answers[best];"
    yield f"console.log({'labels[best]' if facts.labels else 'best'}, probability.toFixed(6));"
