"""Swift: Core Graphics resizes and crops the image in one step, the rest is arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.tools.snippets.facts import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.contract import Snippet
    from timmx.tools.snippets.facts import Facts


def compose(facts: Facts, piece: Snippet) -> str:
    """The complete file, with one function.

    Its functions are `nonisolated`: new projects of Xcode 26 isolate all others to the main actor, which would keep
    them on the main thread.
    """
    imports = sorted({"import CoreGraphics", "import Foundation", *piece.imports})
    result = "[Float]"
    if facts.ranks_classes:
        result = "(String, Float)" if facts.exclusive else "[(String, Float)]"
    lines = [f"// Add {facts.name} to the app's target."]
    if facts.ranks_classes and facts.labels and not facts.inline_labels:
        lines.append(f"// And the class names: {facts.labels_file_hint}")
    lines += ["", *imports, "", f"nonisolated func run(_ image: CGImage) throws -> {result} {{"]
    body = [*piece.load, *_labels(facts)]
    body += [
        "let x = cut(image)" if piece.takes_image else "let x = read(image)",
        *piece.run,
        *_answer(facts),
    ]
    lines += [f"    {line}" for line in body]
    lines += ["}", "", *_cut(facts)]
    if not piece.takes_image:
        lines += ["", *_read(facts)]
    return "\n".join(lines) + "\n"


def _labels(facts: Facts) -> Iterator[str]:
    if facts.ranks_classes and facts.inline_labels:
        yield f"let labels = [{facts.label_literals('swift')}]"
    elif facts.ranks_classes and facts.labels:
        yield 'let list = Bundle.main.url(forResource: "labels", withExtension: "txt")!'
        yield 'let labels = try String(contentsOf: list, encoding: .utf8).split(separator: "\\n").map(String.init)'


def _cut(facts: Facts) -> Iterator[str]:
    config, (height, width), (tall, wide) = facts.preprocessor.data_config, facts.size, facts.scaled
    yield f"// timm resizes with {config.interpolation}, Core Graphics with its own high-quality filter: expect small"
    yield "// differences in the probabilities."
    if facts.preprocessor.turns:
        yield "// Pass images turned as the EXIF orientation says: CGImageSourceCreateThumbnailAtIndex does that with"
        yield "// kCGImageSourceCreateThumbnailWithTransform."
    yield "nonisolated func cut(_ image: CGImage) -> CGImage {"
    if config.crop_mode == "squash":
        yield f"    let (w, h) = (CGFloat({wide}), CGFloat({tall}))"
    else:
        choose = "max" if config.crop_mode == "border" else "min"
        yield f"    let ratio = {choose}(CGFloat(image.height) / {tall}, CGFloat(image.width) / {wide})"
        yield "    let (w, h) = (CGFloat(image.width) / ratio, CGFloat(image.height) / ratio)"
    yield f"    let context = CGContext(data: nil, width: {width}, height: {height}, bitsPerComponent: 8,"
    if facts.gray:
        yield f"                            bytesPerRow: {width}, space: CGColorSpaceCreateDeviceGray(),"
        yield "                            bitmapInfo: CGImageAlphaInfo.none.rawValue)!"
    else:
        yield f"                            bytesPerRow: {4 * width}, space: CGColorSpace(name: CGColorSpace.sRGB)!,"
        yield "                            bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!"
    if config.crop_mode == "border":
        color = facts.preprocessor.border_color
        red, green, blue = color if len(color) == 3 else color * 3
        yield f"    context.setFillColor(red: {red:.6g}, green: {green:.6g}, blue: {blue:.6g}, alpha: 1)"
        yield f"    context.fill(CGRect(x: 0, y: 0, width: {width}, height: {height}))"
    quality = "none" if config.interpolation == "nearest" else "high"
    yield f"    context.interpolationQuality = .{quality}"
    yield f"    context.draw(image, in: CGRect(x: ({width} - w) / 2, y: ({height} - h) / 2, width: w, height: h))"
    yield "    return context.makeImage()!"
    yield "}"


def _read(facts: Facts) -> Iterator[str]:
    config, (height, width) = facts.preprocessor.data_config, facts.size
    per_pixel = 1 if facts.gray else 4
    yield "nonisolated func read(_ image: CGImage) -> [Float] {"
    yield "    let image = cut(image)"
    yield "    let bytes = CFDataGetBytePtr(image.dataProvider!.data!)!"
    if not facts.normalizes:
        yield f"    let mean: [Float] = [{numbers(config.mean)}]"
        yield f"    let std: [Float] = [{numbers(config.std)}]"
    yield f"    var x = [Float](repeating: 0, count: {facts.channels} * {height} * {width})"
    yield f"    for row in 0..<{height} {{"
    yield f"        for column in 0..<{width} {{"
    yield f"            for c in 0..<{facts.channels} {{"
    channel = "2 - c" if facts.preprocessor.color_order == "BGR" else "c"
    yield f"                let share = Float(bytes[row * image.bytesPerRow + {per_pixel} * column + {channel}]) / 255"
    place = (
        f"({width} * row + column) * {facts.channels} + c"
        if facts.layout == "NHWC"
        else f"({height} * c + row) * {width} + column"
    )
    yield f"                x[{place}] = {'share' if facts.normalizes else '(share - mean[c]) / std[c]'}"
    yield "            }"
    yield "        }"
    yield "    }"
    yield "    return x"
    yield "}"


def _answer(facts: Facts) -> Iterator[str]:
    if not facts.ranks_classes:
        yield "return output"
        return
    if not facts.exclusive:
        share = "1 / (1 + exp(-output[$0]))" if facts.to_probabilities == "sigmoid" else "output[$0]"
        yield "// The classes do not exclude each other"
        yield f"return output.indices.map {{ ({'labels[$0]' if facts.labels else 'String($0)'}, {share}) }}"
        return
    yield "let best = output.indices.max { output[$0] < output[$1] }!"
    name = "labels[best]" if facts.labels else "String(best)"
    if facts.to_probabilities == "softmax":
        yield "let sum = output.reduce(0) { $0 + exp($1 - output[best]) }"
        yield f"return ({name}, 1 / sum)"
    else:
        yield f"return ({name}, output[best])"
