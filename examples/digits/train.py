"""Train the example model: a small timm network that reads handwritten digits.

    python examples/digits/train.py

The folder it writes is a timm checkpoint (`timm.create_model("local-dir:examples/digits", pretrained=True)`)
next to the 500 held-out test images. Needs timm and scikit-learn; the images ship inside
scikit-learn, so nothing is downloaded. Takes about a minute on one CPU core.
"""

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.data import ImageDataset, create_transform, resolve_data_config
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from torch.nn import functional
from torch.utils.data import DataLoader

LABEL_NAMES = tuple("0123456789")
TEST_IMAGES = 500
SPLIT_SEED = 0  # not `--seed`: the test images stay the same whatever the training seed
BATCH_SIZE = 64
THREADS = 1  # the order of a sum, and so its last bit, may depend on the number of threads

# Laid over the architecture's own pretrained_cfg, and from there into config.json. The 8x8 images are
# enlarged because the network halves its input five times: 64 pixels leave it a 2x2 map to pool.
PRETRAINED_CFG = {
    "tag": "digits",
    "num_classes": len(LABEL_NAMES),
    "input_size": (3, 64, 64),
    "pool_size": (2, 2),
    "interpolation": "bicubic",
    "crop_pct": 1.0,
    "mean": (0.309, 0.309, 0.309),  # over the training images, once enlarged; gray, so the same thrice
    "std": (0.349, 0.349, 0.349),
    "license": "apache-2.0",
    "description": "Handwritten digits. Trained on the Optical Recognition of Handwritten Digits data set "
    "(E. Alpaydin and C. Kaynak, doi:10.24432/C50P49, CC BY 4.0) as shipped in scikit-learn.",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small timm model on scikit-learn's digits.")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="for the initial weights and the augmentation")
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(args.seed)

    digits = load_digits()
    train_rows, test_rows = train_test_split(
        np.arange(len(digits.target)),
        test_size=TEST_IMAGES,
        stratify=digits.target,
        random_state=SPLIT_SEED,
    )
    model = timm.create_model("test_efficientnet", pretrained_cfg_overlay=PRETRAINED_CFG)
    train(model, digits.images[train_rows], torch.as_tensor(digits.target[train_rows]), args.epochs)

    args.output.mkdir(parents=True, exist_ok=True)
    save_samples(args.output / "samples", digits.images, digits.target, test_rows)
    save_for_hf(model, str(args.output), safe_serialization=True, model_config={"label_names": LABEL_NAMES})
    right, count = evaluate(args.output)
    print(
        f"test accuracy {right / count:.2%}: {right} of {count} held-out images, read back from samples/ "
        "and classified by the saved checkpoint through timm's inference transform"
    )


def train(model: torch.nn.Module, images: np.ndarray, labels: torch.Tensor, epochs: int) -> None:
    """Train in place, on images that went through the transform that inference will use.

    Args:
        images: (N, 8, 8), ink from 0 to 16.
        labels: (N,), class indices.
    """
    config = resolve_data_config({}, model=model)
    transform = create_transform(**config, is_training=False)
    inputs = torch.stack([transform(to_pil(image).convert("RGB")) for image in images])
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    paper = -mean / std  # a pixel without ink

    optimizer = create_optimizer_v2(model, opt="adamw", weight_decay=0.05)
    steps = len(inputs) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * steps)
    model.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(inputs))[: steps * BATCH_SIZE].split(BATCH_SIZE):
            batch = shift_and_rotate(inputs[rows] - paper) + paper
            loss = functional.cross_entropy(model(batch), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch:2} of {epochs}  loss {total / steps:.3f}", flush=True)
    model.eval()


def shift_and_rotate(batch: torch.Tensor) -> torch.Tensor:
    """Each image turned by up to 12 degrees and moved by up to an eighth of its side; zeros come in."""
    angle = (torch.rand(len(batch)) * 2 - 1) * np.deg2rad(12)
    shift = (torch.rand(len(batch), 2) * 2 - 1) / 4  # affine_grid counts a side as 2
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    grid = functional.affine_grid(torch.cat([turn, shift[..., None]], dim=2), list(batch.shape), False)
    return functional.grid_sample(batch, grid, align_corners=False)


def to_pil(image: np.ndarray) -> Image.Image:
    """An 8x8 array of ink from 0 to 16 as a gray image, ink white."""
    return Image.fromarray(np.round(image * 255 / 16).astype(np.uint8))


def save_samples(folder: Path, images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> None:
    """Write `<label>/<row in the data set>.png` for each of the rows."""
    for row in rows:
        path = folder / LABEL_NAMES[labels[row]] / f"{row:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        to_pil(images[row]).save(path)


def evaluate(folder: Path) -> tuple[int, int]:
    """How many of the folder's samples its checkpoint gets right, and how many there are."""
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model), is_training=False)
    dataset = ImageDataset(str(folder / "samples"), transform=transform)
    inputs, labels = next(iter(DataLoader(dataset, batch_size=len(dataset))))
    with torch.inference_mode():
        predictions = model(inputs).argmax(1)
    return int((predictions == labels).sum()), len(labels)


if __name__ == "__main__":
    main()
