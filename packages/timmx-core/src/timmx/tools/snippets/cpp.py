"""C++: OpenCV decodes the image, the resize is Pillow's arithmetic, since OpenCV's has no antialiasing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.tools.snippets.facts import STORED_RANGES, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.contract import Snippet
    from timmx.tools.snippets.facts import Facts

_FILTERS = {
    "box": ("0.5", "x > -0.5 && x <= 0.5 ? 1 : 0"),
    "bilinear": ("1", "std::max(0.0, 1 - std::abs(x))"),
    "hamming": (
        "1",
        "x == 0 ? 1 : std::abs(x) < 1 ? std::sin(M_PI * x) / (M_PI * x) * (0.54 + 0.46 * std::cos(M_PI * x)) : 0",
    ),
    "bicubic": (
        "2",
        "(x = std::abs(x)) < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((2.5 - 0.5 * x) * x - 4) * x + 2 : 0",
    ),
    "lanczos": (
        "3",
        "x == 0 ? 1 : std::abs(x) < 3 ? 3 * std::sin(M_PI * x) * std::sin(M_PI * x / 3) / (M_PI * x * M_PI * x) : 0",
    ),
}
"""Pillow's filters (Resample.c): the support of each in pixels, and its weight at distance x."""

_TYPES = {"float32": "float", "uint8": "uint8_t", "int8": "int8_t", "int16": "int16_t"}


def compose(facts: Facts, piece: Snippet) -> str:
    """The complete program.

    Raises:
        ArtifactError: the element type of the input has no snippet in C++.
    """
    facts.require_dtype(_TYPES, "cpp")
    includes = {"algorithm", "cmath", "cstdint", "iostream", "stdexcept", "string", "vector"}
    lines = [
        f"// Link with {' and '.join(sorted({*piece.requires, 'OpenCV'}))}; run with the name of an image."
    ]
    if facts.ranks_classes and facts.labels and not facts.inline_labels:
        lines.append(f"// And the class names in labels.txt: {facts.labels_file_hint}")
        includes.add("fstream")
    lines += [*(f"#include <{name}>" for name in sorted(includes)), ""]
    lines += [*sorted({*piece.imports, "#include <opencv2/imgcodecs.hpp>"}), ""]
    lines += [*_resize(facts), "", *_read(facts), "", "int main(int argc, char** argv) {"]
    lines += [f"    {line}" for line in (*piece.load, *_labels(facts), *_stacked(facts, piece), *piece.run)]
    lines += [f"    {line}" for line in _answer(facts)]
    return "\n".join([*lines, "}"]) + "\n"


def _labels(facts: Facts) -> Iterator[str]:
    if not (facts.ranks_classes and facts.labels):
        return
    if facts.inline_labels:
        yield f"const std::vector<std::string> labels{{{facts.label_literals('cpp')}}};"
    else:
        yield "std::vector<std::string> labels;"
        yield 'std::ifstream names("labels.txt");'
        yield "for (std::string name; std::getline(names, name);) labels.push_back(name);"


def _resize(facts: Facts) -> Iterator[str]:
    name, channels = facts.preprocessor.data_config.interpolation.lower(), facts.channels
    yield f"// One axis of Pillow's {name} resize: rows of w pixels become columns of `size`; run it once per axis"
    yield "std::vector<uint8_t> resize(const std::vector<uint8_t>& pixels, int w, int h, int size) {"
    yield f"    std::vector<uint8_t> out(size_t({channels}) * size * h);"
    yield "    const double scale = double(w) / size;"
    source, target = _place("(y * w + i)", channels, "c"), _place("(x * h + y)", channels, "c")
    if name == "nearest":
        yield "    double center = scale / 2;"
        yield "    for (int x = 0; x < size; x++, center += scale) {"
        yield "        const int i = int(center);"
        yield "        for (int y = 0; y < h; y++) {"
        yield f"            for (int c = 0; c < {channels}; c++) out[{target}] = pixels[{source}];"
        yield "        }"
    else:
        reach, weight = _FILTERS[name]
        yield f"    const auto weigh = [](double x) -> double {{ return {weight}; }};"
        yield "    const double stretch = std::max(scale, 1.0);"
        yield "    for (int x = 0; x < size; x++) {"
        yield "        const double center = (x + 0.5) * scale;"
        yield f"        const int first = std::max(0, int(center - {reach} * stretch + 0.5));"
        yield f"        const int last = std::min(w, int(center + {reach} * stretch + 0.5));"
        yield "        std::vector<double> weights;"
        yield "        double total = 0;"
        yield "        for (int i = first; i < last; i++) {"
        yield "            weights.push_back(weigh((i - center + 0.5) / stretch));"
        yield "            total += weights.back();"
        yield "        }"
        yield "        for (int y = 0; y < h; y++) {"
        yield f"            for (int c = 0; c < {channels}; c++) {{"
        yield "                int64_t sum = 1 << 21;"
        yield "                for (int i = first; i < last; i++) {"
        yield f"                    sum += std::llround(weights[i - first] / total * (1 << 22)) * pixels[{source}];"
        yield "                }"
        yield f"                out[{target}] = uint8_t(std::clamp<int64_t>(sum >> 22, 0, 255));"
        yield "            }"
        yield "        }"
    yield "    }"
    yield "    return out;"
    yield "}"


def _read(facts: Facts) -> Iterator[str]:
    config, (height, width), channels = facts.preprocessor.data_config, facts.size, facts.channels
    kind, flags = _TYPES[facts.dtype], "cv::IMREAD_GRAYSCALE" if facts.gray else "cv::IMREAD_COLOR"
    if not facts.preprocessor.turns:
        flags += " | cv::IMREAD_IGNORE_ORIENTATION"
    yield f"std::vector<{kind}> read(const char* path) {{"
    yield f"    const cv::Mat image = cv::imread(path, {flags}); // channels in the order BGR"
    yield '    if (image.empty()) throw std::runtime_error(std::string(path) + " cannot be read");'
    yield f"    const std::vector<uint8_t> data(image.data, image.data + size_t({channels}) * image.rows * image.cols);"
    yield from _scaled(facts)
    yield "    const std::vector<uint8_t> pixels = resize(resize(data, image.cols, image.rows, w), image.rows, w, h);"
    yield "    // The crop is centered, with halves to even, as in Python; outside of the image it is filled"
    yield "    const auto offset = [](int beyond) {"
    yield "        return beyond < 0 ? int(std::ceil(beyond / 2.0)) : int(std::nearbyint(beyond / 2.0));"
    yield "    };"
    yield f"    const int left = offset(w - {width}), top = offset(h - {height});"
    if not facts.normalizes:
        yield f"    const float mean[] = {{{_floats(config.mean)}}}, std_[] = {{{_floats(config.std)}}};"
    fill = [round(255 * value) for value in config.mean] if config.crop_mode == "border" else [0] * channels
    yield f"    const int fill[] = {{{', '.join(map(str, fill))}}};"
    yield f"    std::vector<{kind}> x(size_t({channels}) * {height} * {width});"
    yield f"    for (int i = 0; i < {height} * {width}; i++) {{"
    yield f"        const int row = top + i / {width}, column = left + i % {width};"
    yield "        const bool inside = row >= 0 && row < h && column >= 0 && column < w;"
    yield f"        for (int c = 0; c < {channels}; c++) {{"
    channel = "2 - c" if facts.preprocessor.color_order == "RGB" else "c"
    yield f"            const int value = inside ? pixels[{_place('(row * w + column)', channels, channel)}] : fill[c];"
    place = f"{channels} * i + c" if facts.layout == "NHWC" else f"{height} * {width} * c + i"
    yield f"            x[{place}] = {_value(facts)};"
    yield "        }"
    yield "    }"
    yield "    return x;"
    yield "}"


def _scaled(facts: Facts) -> Iterator[str]:
    """The size that timm resizes an image to before the crop."""
    crop_mode, (tall, wide) = facts.preprocessor.data_config.crop_mode, facts.scaled
    if crop_mode == "squash":
        yield f"    const int w = {wide}, h = {tall};"
    elif crop_mode != "border" and wide == tall:
        yield "    const int edge = std::min(image.cols, image.rows);"
        yield f"    const int w = int({tall}LL * image.cols / edge), h = int({tall}LL * image.rows / edge);"
    else:
        choose = "max" if crop_mode == "border" else "min"
        yield f"    const double ratio = std::{choose}(image.rows / {tall}.0, image.cols / {wide}.0);"
        yield "    const int w = int(std::nearbyint(image.cols / ratio)), h = int(std::nearbyint(image.rows / ratio));"


def _place(pixel: str, channels: int, channel: str) -> str:
    return pixel if channels == 1 else f"{channels} * {pixel} + {channel}"


def _value(facts: Facts) -> str:
    kind = _TYPES[facts.dtype]
    if facts.takes_bytes:
        return f"{kind}(value)"
    real = "value / 255.0f" if facts.normalizes else "(value / 255.0f - mean[c]) / std_[c]"
    if facts.quantization is None:
        return real
    low, high = STORED_RANGES[facts.dtype]
    stored = f"std::lround(({real}) / {facts.quantization.scale:.9g}f) + {facts.quantization.zero_point}"
    return f"{kind}(std::clamp<long>({stored}, {low}, {high}))"


def _stacked(facts: Facts, piece: Snippet) -> Iterator[str]:
    count = facts.batch or piece.least_batch
    yield f"std::vector<{_TYPES[facts.dtype]}> x = read(argv[argc - 1]);"
    if count > 1:
        yield f"const size_t one = x.size(); // the file has a fixed batch size of {count}: copies of one image"
        yield f"for (size_t i = one; i < {count} * one; i++) x.push_back(x[i % one]);"


def _answer(facts: Facts) -> Iterator[str]:
    stored = facts.output_quantization
    value = "output[i]" if stored is None else f"({stored.scale:.9g}f * (output[i] - {stored.zero_point}))"
    if not facts.ranks_classes:
        sizes = [size for size in facts.answers if isinstance(size, int)]
        yield f"for (size_t i = 0; i < {' * '.join(map(str, sizes)) or '1'}; i++) std::cout << {value} << std::endl;"
        return
    name = "labels[{}]" if facts.labels else "{}"
    count = facts.answers[0]
    if not facts.exclusive:
        share = f"1 / (1 + std::exp(-{value}))" if facts.to_probabilities == "sigmoid" else value
        yield f"for (size_t i = 0; i < {count}; i++) {{ // the classes do not exclude each other"
        yield f'    std::cout << {name.format("i")} << " " << {share} << std::endl;'
        yield "}"
        return
    yield f"std::vector<float> answers({count});"
    yield f"for (size_t i = 0; i < {count}; i++) answers[i] = {value};"
    yield "const size_t best = std::max_element(answers.begin(), answers.end()) - answers.begin();"
    if facts.to_probabilities == "softmax":
        yield "double sum = 0;"
        yield "for (const float answer : answers) sum += std::exp(double(answer) - answers[best]);"
        share = "1 / sum"
    else:
        share = "answers[best]"
    yield f'std::cout << {name.format("best")} << " " << {share} << std::endl;'


def _floats(values: tuple[float, ...]) -> str:
    return ", ".join(f"float({number})" for number in numbers(values).split(", "))
