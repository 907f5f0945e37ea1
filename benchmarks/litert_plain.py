"""The conversions of `litert.py` without timmx: plain calls of litert-torch, as in its documentation and tests.

    uv run benchmarks/litert_plain.py MODEL WAY OUTPUT [FOLDER]

The outputs are not compared, and the files contain no names and no metadata. Each way imports only what it needs, so
that time and memory are its own.

| way | what it calls |
| --- | --- |
| fp32 | `litert_torch.convert` |
| quantizer-static, quantizer-dynamic | that, then ai-edge-quantizer with `static_wi8_ai8` or `dynamic_wi8_afp32` |
| pt2e-static, pt2e-dynamic | PT2E with litert-torch's quantizer, one scale per channel, then `litert_torch.convert` |
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="a timm name, or a .pt file with a module")
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("output")
    parser.add_argument("folder", nargs="?", type=Path, help="pictures to calibrate on")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    saved = arguments.model.endswith(".pt")
    model = torch.load(arguments.model, weights_only=False) if saved else timm.create_model(arguments.model)
    with torch.no_grad():
        WAYS[arguments.way](model.eval(), arguments.output, arguments.folder)


def convert(model: torch.nn.Module, output: str, folder: Path | None) -> None:
    import litert_torch

    litert_torch.convert(model, (example(model),)).export(output)


def quantizer_static(model: torch.nn.Module, output: str, folder: Path) -> None:
    from ai_edge_quantizer import quantizer, recipe

    convert(model, output, folder)
    work = quantizer.Quantizer(output)
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    inputs = [{"args_0": picture.numpy()} for picture in pictures(model, folder)]
    ranges = work.calibrate({"serving_default": inputs})
    Path(output).unlink()
    work.quantize(ranges).export_model(output)


def quantizer_dynamic(model: torch.nn.Module, output: str, folder: Path | None) -> None:
    from ai_edge_quantizer import quantizer, recipe

    convert(model, output, folder)
    work = quantizer.Quantizer(output)
    work.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    Path(output).unlink()
    work.quantize().export_model(output)


def pt2e(model: torch.nn.Module, output: str, folder: Path | None, *, dynamic: bool) -> None:
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
    quantizer = PT2EQuantizer().set_global(config)
    prepared = prepare_pt2e(torch.export.export(model, (example(model),)).module(), quantizer)
    # Dynamic ranges need no pictures, but per-channel scales are scalars before a first run.
    for picture in [example(model)] if dynamic else pictures(model, folder):
        prepared(picture)
    # Weights that are folded already stop the converter: "operand #0 must be ranked tensor of per-tensor integer
    # quantized or per-axis integer quantized values" (litert-torch 0.10.0). Its own tests say False too.
    converted = convert_pt2e(prepared, fold_quantize=False)
    settings = QuantConfig(pt2e_quantizer=quantizer)
    litert_torch.convert(converted, (example(model),), quant_config=settings).export(output)


def pt2e_static(model: torch.nn.Module, output: str, folder: Path | None) -> None:
    pt2e(model, output, folder, dynamic=False)


def pt2e_dynamic(model: torch.nn.Module, output: str, folder: Path | None) -> None:
    pt2e(model, output, folder, dynamic=True)


def example(model: torch.nn.Module) -> torch.Tensor:
    return torch.rand(1, *model.pretrained_cfg["input_size"])


def pictures(model: torch.nn.Module, folder: Path) -> list[torch.Tensor]:
    """Through timm's evaluation transform, (1, C, H, W) each."""
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    paths = sorted(folder.rglob("*.png"))
    return [transform(Image.open(path).convert("RGB"))[None].contiguous() for path in paths]


WAYS = {
    "fp32": convert,
    "quantizer-static": quantizer_static,
    "quantizer-dynamic": quantizer_dynamic,
    "pt2e-static": pt2e_static,
    "pt2e-dynamic": pt2e_dynamic,
}


if __name__ == "__main__":
    main()
