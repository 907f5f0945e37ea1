"""Kotlin for Android: a Canvas resizes and crops the Bitmap in one step, the rest is arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.tools.snippets.facts import STORED_RANGES, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.contract import Snippet
    from timmx.tools.snippets.facts import Facts

_ARRAYS = {"float32": "FloatArray", "uint8": "ByteArray", "int8": "ByteArray", "int16": "ShortArray"}
_TO = {"float32": "", "uint8": ".toByte()", "int8": ".toByte()", "int16": ".toShort()"}


def compose(facts: Facts, piece: Snippet) -> str:
    """The complete file, with one class.

    Raises:
        ArtifactError: the element type of the input has no array type in Kotlin.
    """
    facts.require_dtype(_ARRAYS, "kotlin")
    imports = {
        "import android.content.Context",
        "import android.graphics.Bitmap",
        "import android.graphics.Canvas",
        "import android.graphics.Color",
        "import android.graphics.Paint",
        "import android.graphics.RectF",
        "import kotlin.math.exp",
        "import kotlin.math.roundToInt",
        *piece.imports,
    }
    if facts.to_probabilities == "none":
        imports.discard("import kotlin.math.exp")
    if facts.quantization is None:
        imports.discard("import kotlin.math.roundToInt")
    needs = " and ".join(piece.requires)
    lines = [f"// Needs {needs}, and {facts.name} in assets/."]
    if facts.ranks_classes and facts.labels and not facts.inline_labels:
        lines.append(f"// And the class names in assets/: {facts.labels_file_hint}")
    lines += ["", *sorted(imports), "", "class Classifier(context: Context) {"]
    body = [f"private {line}" if line.startswith("val ") else line for line in (*piece.load, *_labels(facts))]
    result = "FloatArray"
    if facts.ranks_classes:
        result = "Pair<String, Float>" if facts.exclusive else "List<Pair<String, Float>>"
    body += ["", f"fun run(bitmap: Bitmap): {result} {{"]
    body += [f"    {line}" for line in (*_stacked(facts, piece), *piece.run, *_answer(facts))]
    body += ["}", "", *_read(facts)]
    lines += [f"    {line}" if line else "" for line in body]
    return "\n".join([*lines, "}"]) + "\n"


def _labels(facts: Facts) -> Iterator[str]:
    if facts.ranks_classes and facts.inline_labels:
        yield f"val labels = listOf({facts.label_literals('kotlin')})"
    elif facts.ranks_classes and facts.labels:
        yield 'val labels = context.assets.open("labels.txt").bufferedReader().readLines()'


def _read(facts: Facts) -> Iterator[str]:
    config, (height, width), (tall, wide) = facts.preprocessor.data_config, facts.size, facts.scaled
    yield f"// timm resizes with {config.interpolation} and antialiasing, Android with bilinear without antialiasing."
    yield "// Pass bitmaps of about the size below, or expect small differences in the probabilities."
    if facts.preprocessor.turns:
        yield "// Pass bitmaps turned as the EXIF orientation says: ImageDecoder does that, BitmapFactory does not."
    yield f"private fun read(bitmap: Bitmap): {_ARRAYS[facts.dtype]} {{"
    if config.crop_mode == "squash":
        yield f"    val w = {wide}f"
        yield f"    val h = {tall}f"
    else:
        choose = "maxOf" if config.crop_mode == "border" else "minOf"
        yield f"    val ratio = {choose}(bitmap.height / {tall}f, bitmap.width / {wide}f)"
        yield "    val w = bitmap.width / ratio"
        yield "    val h = bitmap.height / ratio"
    yield f"    val cut = Bitmap.createBitmap({width}, {height}, Bitmap.Config.ARGB_8888)"
    yield "    val canvas = Canvas(cut)"
    fill = (
        [round(255 * value) for value in facts.preprocessor.border_color]
        if config.crop_mode == "border"
        else [0]
    )
    red, green, blue = fill if len(fill) == 3 else [fill[0]] * 3
    yield f"    canvas.drawColor(Color.rgb({red}, {green}, {blue}))"
    yield f"    val left = ({width} - w) / 2"
    yield f"    val top = ({height} - h) / 2"
    paint = "null" if config.interpolation == "nearest" else "Paint(Paint.FILTER_BITMAP_FLAG)"
    yield f"    canvas.drawBitmap(bitmap, null, RectF(left, top, left + w, top + h), {paint})"
    yield f"    val pixels = IntArray({height} * {width})"
    yield f"    cut.getPixels(pixels, 0, {width}, 0, 0, {width}, {height})"
    if not facts.normalizes:
        yield f"    val mean = floatArrayOf({_floats(config.mean)})"
        yield f"    val std = floatArrayOf({_floats(config.std)})"
    yield f"    val x = {_ARRAYS[facts.dtype]}({facts.channels} * pixels.size)"
    yield "    for (i in pixels.indices) {"
    if facts.gray:
        yield "        val colors = intArrayOf("
        yield "            (299 * Color.red(pixels[i]) + 587 * Color.green(pixels[i]) +"
        yield "                114 * Color.blue(pixels[i])) / 1000"
        yield "        )"
    else:
        order = "blue green red" if facts.preprocessor.color_order == "BGR" else "red green blue"
        values = ", ".join(f"Color.{color}(pixels[i])" for color in order.split())
        yield f"        val colors = intArrayOf({values})"
    yield "        for (c in colors.indices) {"
    place = f"{facts.channels} * i + c" if facts.layout == "NHWC" else "pixels.size * c + i"
    yield f"            x[{place}] = {_value(facts)}"
    yield "        }"
    yield "    }"
    yield "    return x"
    yield "}"


def _value(facts: Facts) -> str:
    if facts.takes_bytes:
        return "colors[c].toByte()"
    real = "colors[c] / 255f" if facts.normalizes else "(colors[c] / 255f - mean[c]) / std[c]"
    if facts.quantization is None:
        return real
    low, high = STORED_RANGES[facts.dtype]
    stored = f"((({real}) / {facts.quantization.scale:.9g}f).roundToInt() + {facts.quantization.zero_point})"
    return f"{stored}.coerceIn({low}, {high}){_TO[facts.dtype]}"


def _stacked(facts: Facts, piece: Snippet) -> Iterator[str]:
    count = facts.batch or piece.least_batch
    if count == 1:
        yield "val x = read(bitmap)"
    else:
        yield f"val one = read(bitmap) // the file has a fixed batch size of {count}: copies of one image"
        yield f"val x = {_ARRAYS[facts.dtype]}({count} * one.size) {{ one[it % one.size] }}"


def _answer(facts: Facts) -> Iterator[str]:
    stored = facts.output_quantization
    number = "output[it]"
    if stored is not None:
        low = " and 0xFF" if facts.output_dtype == "uint8" else ""  # bytes are signed in Kotlin
        number = f"{stored.scale:.9g}f * ((output[it].toInt(){low}) - {stored.zero_point})"
    if not facts.ranks_classes:
        yield f"return FloatArray(output.size) {{ {number} }}"
        return
    yield f"val answers = FloatArray({facts.answers[0]}) {{ {number} }}"
    if not facts.exclusive:
        share = "(1 / (1 + exp(-answers[it])))" if facts.to_probabilities == "sigmoid" else "answers[it]"
        name = "labels[it]" if facts.labels else "it.toString()"
        yield "// The classes do not exclude each other"
        yield f"return answers.indices.map {{ {name} to {share} }}"
        return
    yield "val best = answers.indices.maxByOrNull { answers[it] }!!"
    name = "labels[best]" if facts.labels else "best.toString()"
    if facts.to_probabilities == "softmax":
        yield "val sum = answers.sumOf { exp((it - answers[best]).toDouble()) }"
        yield f"return {name} to (1 / sum).toFloat()"
    else:
        yield f"return {name} to answers[best]"


def _floats(values: tuple[float, ...]) -> str:
    return ", ".join(f"{number}f" for number in numbers(values).split(", "))
