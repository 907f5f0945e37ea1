"""Python: Pillow and numpy preprocess the image, the format's own runtime runs the file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.contract import Snippet, quote_string
from timmx.tools.snippets.facts import STORED_RANGES, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.tools.snippets.facts import Facts


def through_timmx(facts: Facts, distribution: str | None) -> Snippet:
    """The snippet for a format without its own: timmx opens the file with the backend of this distribution."""
    file, entry, output = (
        quote_string(text, "python") for text in (facts.path, facts.input_name, facts.output_name)
    )
    return Snippet(
        requires=("timmx-core", *([distribution] if distribution else [])),
        imports=("import timmx",),
        load=(f"runner = timmx.open({file})",),
        run=(f"output = runner.run({{{entry}: x}})[{output}]",),
    )


def compose(facts: Facts, piece: Snippet) -> str:
    """The complete program."""
    packages = " ".join(sorted({"numpy", "pillow", *piece.requires}))
    pillow = "from PIL import Image, ImageOps" if facts.preprocessor.turns else "from PIL import Image"
    statements = {"import sys", "import numpy as np", pillow, *piece.imports}
    if not _reads_labels(facts, piece):
        statements -= {"import json", "import zipfile"}  # only used for labels
    imports = sorted(statements, key=_import_order)
    standard = [line for line in imports if _import_order(line)[0] == 0]
    others = [line for line in imports if _import_order(line)[0] == 1]
    lines = [f"# uv pip install {packages}", *standard, "", *others, "", *piece.load]
    lines += [*_labels(facts, piece), "", "", *_read(facts, piece), "", ""]
    lines += _stacked(facts, piece)
    lines += [*piece.run, *_answer(facts)]
    return "\n".join(lines) + "\n"


def _reads_labels(facts: Facts, piece: Snippet) -> bool:
    """Whether the code reads the class names from the file, because they are too many to write into the code."""
    return bool(facts.ranks_classes and facts.labels and not facts.inline_labels and piece.labels)


def _import_order(line: str) -> tuple[int, str]:
    module = line.split()[1]
    return (0 if module in ("json", "sys", "zipfile") else 1), f"{line.startswith('from')} {module.lower()}"


def _labels(facts: Facts, piece: Snippet) -> Iterator[str]:
    if not (facts.ranks_classes and facts.labels):
        return
    if facts.inline_labels:
        yield f"labels = [{facts.label_literals('python')}]"
    elif _reads_labels(facts, piece):
        yield f"labels = {piece.labels}"
    else:
        yield f'labels = open("labels.txt", encoding="utf-8").read().splitlines()  # {facts.labels_file_hint}'


def _read(facts: Facts, piece: Snippet) -> Iterator[str]:
    yield "def read(path):"
    yield "    image = Image.open(path)"
    yield '    if image.mode[0] in "IF":  # convert would clip its values at 255'
    yield '        raise SystemExit(f"{path} has 16-bit or float pixels: save it with 8 bits per channel first")'
    if facts.preprocessor.turns:
        yield "    image = ImageOps.exif_transpose(image)"
    yield f'    image = image.convert("{"L" if facts.gray else "RGB"}")'
    yield from _resize(facts)
    yield from _crop(facts)
    if piece.takes_image:
        yield "    return image"
        return
    if facts.takes_bytes:
        yield "    x = np.asarray(image)"
    else:
        yield "    x = np.asarray(image, np.float32) / np.float32(255)"
    if facts.gray:
        yield "    x = x[:, :, None]"
    if facts.preprocessor.color_order == "BGR":
        yield "    x = x[:, :, ::-1]"
    if not facts.normalizes:
        config = facts.preprocessor.data_config
        yield f"    mean = np.array([{numbers(config.mean)}], np.float32)"
        yield f"    std = np.array([{numbers(config.std)}], np.float32)"
        yield "    x = (x - mean) / std"
    if facts.quantization is not None:
        low, high = STORED_RANGES[facts.dtype]
        scale, zero_point = facts.quantization.scale, facts.quantization.zero_point
        yield f"    x = np.rint(x / np.float32({scale!r})) + {zero_point}"
        yield f"    x = np.clip(x, {low}, {high}).astype(np.{facts.dtype})"
    array = "x" if facts.layout == "NHWC" else "x.transpose(2, 0, 1)"
    yield f"    return np.ascontiguousarray({array}[None])"


def _resize(facts: Facts) -> Iterator[str]:
    config, (height, width) = facts.preprocessor.data_config, facts.scaled
    resample = f"Image.Resampling.{config.interpolation.upper()}"
    if config.crop_mode == "squash":
        yield f"    image = image.resize(({width}, {height}), {resample})"
    elif config.crop_mode != "border" and height == width:
        yield "    short = min(image.size)"
        yield f"    size = [int({height} * side / short) for side in image.size]"
        yield f"    image = image.resize(size, {resample})"
    else:
        choose = "max" if config.crop_mode == "border" else "min"
        yield f"    ratio = {choose}(image.height / {height}, image.width / {width})"
        yield "    size = round(image.width / ratio), round(image.height / ratio)"
        yield f"    image = image.resize(size, {resample})"


def _crop(facts: Facts) -> Iterator[str]:
    config, (height, width) = facts.preprocessor.data_config, facts.size
    if config.crop_mode == "squash" and facts.scaled == facts.size:
        return
    if config.crop_mode != "border" and config.crop_pct <= 1:  # the crop is inside the image
        yield f"    left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)"
        yield f"    image = image.crop((left, top, left + {width}, top + {height}))"
        return
    fill: int | tuple[int, ...] = 0
    if config.crop_mode == "border":
        color = tuple(round(255 * value) for value in facts.preprocessor.border_color)
        fill = color[0] if len(color) == 1 else color
    yield "    def offset(size, crop):"
    yield "        return -((crop - size) // 2) if crop > size else round((size - crop) / 2)"
    yield ""
    yield f"    canvas = Image.new(image.mode, ({width}, {height}), {fill})"
    yield f"    canvas.paste(image, (-offset(image.width, {width}), -offset(image.height, {height})))"
    yield "    image = canvas"


def _stacked(facts: Facts, piece: Snippet) -> Iterator[str]:
    yield "x = read(sys.argv[1])"
    count = facts.batch or piece.least_batch
    if count > 1 and not piece.takes_image:
        yield f"x = np.repeat(x, {count}, axis=0)  # the file has a fixed batch size of {count}: copies of one image"


def _answer(facts: Facts) -> Iterator[str]:
    stored = facts.output_quantization
    yield "output = output[0]"
    if stored is not None:
        yield (
            f"output = np.float32({stored.scale!r}) * (output.astype(np.float32) - np.float32({stored.zero_point}))"
        )
    if not facts.ranks_classes:
        yield "print(output.shape, output)"
        return
    if not facts.exclusive:
        if facts.to_probabilities == "sigmoid":
            yield "output = 1 / (1 + np.exp(-output.astype(np.float64)))"
        yield "for number, probability in enumerate(output):  # the classes do not exclude each other"
        yield f'    print({"labels[number]" if facts.labels else "number"}, f"{{probability:.6f}}")'
        return
    if facts.to_probabilities == "softmax":
        yield "output = np.exp(output - output.max())"
        yield "output /= output.sum()"
    yield "best = int(output.argmax())"
    what = "labels[best]" if facts.labels else "best"
    yield f'print({what}, f"{{output[best]:.6f}}")'
