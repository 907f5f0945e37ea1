"""Train a timm model on Fashion-MNIST and save it as a `local-dir:` folder, for `int8_accuracy.py`.

    uv run benchmarks/train_fashion_mnist.py mobilenetv3_small_050 -o models/mobilenetv3_small_050 [--epochs 40]

Minutes on a GPU, hours on a CPU. Images are resized to 96 x 96 pixels. AdamW with one cycle of learning rates, label
smoothing, flips, shifts of up to 3 pixels, random boxes and stochastic depth; bfloat16 on a GPU. Prints the accuracy
on the 10,000 test images after each epoch. The weights are rounded to float16, in which they are stored, before the
last measurement, so that loading them gives the same model.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import fashion_mnist
import timm
import torch
from timm.models import save_for_hf
from torch import nn
from torch.nn import functional

SIDE, MEAN, STD = 96, 0.286, 0.353


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=fashion_mnist.DATA)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--images", type=int, help="train on the first images only")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    images, labels = load(arguments.data, "train", device, arguments.images)
    test = load(arguments.data, "t10k", device, arguments.images)
    model = create(arguments.model).to(device)
    train(model, images, labels, test, arguments)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())
    print(f"{100 * accuracy(model, *test):.2f} % with weights in float16")
    save(model, arguments.output)


def load(
    folder: Path, part: str, device: torch.device, most: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images (N, 1, 28, 28) from 0 to 1 and the classes (N,) of a part, on the device."""
    images, labels = (torch.tensor(array[:most], device=device) for array in fashion_mnist.read(folder, part))
    return images[:, None] / 255, labels.long()


def create(name: str) -> nn.Module:
    """An untrained model for 96 x 96 pixels and 10 classes, with stochastic depth if it has that."""
    arguments: dict[str, object] = {"num_classes": 10}
    if timm.create_model(name).default_cfg.get("fixed_input_size"):
        arguments["img_size"] = SIDE
    try:
        return timm.create_model(name, drop_path_rate=0.05, **arguments)
    except TypeError:  # without stochastic depth
        return timm.create_model(name, **arguments)


def prepare(images: torch.Tensor) -> torch.Tensor:
    """The input of the model: resized, gray repeated to RGB, normalized."""
    images = functional.interpolate(images, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
    return ((images - MEAN) / STD).expand(-1, 3, -1, -1)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Flip half of the images, shift each by up to 3 pixels, and blank a box in half of them."""
    count, _, height, width = images.shape
    flipped = torch.rand(count, 1, 1, 1, device=images.device) < 0.5
    images = torch.where(flipped, images.flip(-1), images)
    rows, columns = (torch.randint(0, 7, (count,), device=images.device) for _ in range(2))
    padded = functional.pad(images, (3, 3, 3, 3))[:, 0]
    y = rows[:, None, None] + torch.arange(height, device=images.device)[None, :, None]
    x = columns[:, None, None] + torch.arange(width, device=images.device)[None, None, :]
    images = padded[torch.arange(count, device=images.device)[:, None, None], y, x][:, None]
    top, left = (torch.randint(0, height, (count, 1, 1), device=images.device) for _ in range(2))
    side = torch.randint(0, 12, (count, 1, 1), device=images.device)
    y, x = (torch.arange(height, device=images.device).view(shape) for shape in ((1, -1, 1), (1, 1, -1)))
    boxed = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
    boxed &= torch.rand(count, 1, 1, device=images.device) < 0.5
    return images.masked_fill(boxed[:, None], 0)


def train(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    test: tuple[torch.Tensor, torch.Tensor],
    arguments: argparse.Namespace,
) -> None:
    size = arguments.batch_size
    steps = len(images) // size
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.learning_rate, total_steps=steps * arguments.epochs, pct_start=0.2
    )
    for epoch in range(arguments.epochs):
        began = time.perf_counter()
        model.train()
        for some in torch.randperm(len(images), device=images.device)[: steps * size].split(size):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
                outputs = model(prepare(augment(images[some])))
            loss = functional.cross_entropy(outputs.float(), labels[some], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - began
        print(f"epoch {epoch + 1}: {100 * accuracy(model, *test):.2f} %, {seconds:.0f} s", flush=True)


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    found = torch.cat([model(prepare(some)).argmax(1) for some in images.split(500)])
    return float((found == labels).float().mean())


def save(model: nn.Module, folder: Path) -> None:
    """As a `local-dir:` folder, with float16 weights."""
    data = {"input_size": (3, SIDE, SIDE), "mean": (MEAN,) * 3, "std": (STD,) * 3}
    config = {"tag": "fashion_mnist", "interpolation": "bicubic", "crop_pct": 1.0, **data}
    arguments = {"num_classes": 10} | (
        {"img_size": SIDE} if model.default_cfg.get("fixed_input_size") else {}
    )
    model.pretrained_cfg = {**model.default_cfg, **config}
    save_for_hf(
        model.cpu().half(),
        folder,
        model_config={
            "num_classes": 10,
            "label_names": list(fashion_mnist.CLASSES),
            "model_args": arguments,
            "pretrained_cfg": model.pretrained_cfg,
        },
        safe_serialization=True,
    )


if __name__ == "__main__":
    main()
