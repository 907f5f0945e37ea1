"""Converts a captured model with litert-torch: one call of `litert_torch.convert` and its preparation."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from typing import TYPE_CHECKING

import torch
from timmx.plugin import UnsupportedError, move_to_cpu, quick_decompositions
from torch import nn

from timmx_litert.lower import lower
from timmx_litert.model_file import flatten_biases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from timmx.plugin import ExportJob


class IOAdapter(nn.Module):
    """Wraps a captured program: converts the input's layout and type, names the outputs."""

    def __init__(
        self, program: nn.Module, output_names: tuple[str, ...], *, nhwc: bool, pixel_bytes: bool
    ) -> None:
        super().__init__()
        self.program = program
        self.output_names = output_names
        self.nhwc = nhwc
        self.pixel_bytes = pixel_bytes
        self.training = False  # not by eval(), which a captured program refuses

    def forward(self, input: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.pixel_bytes:
            input = input.float() * (1 / 255)
        if self.nhwc:
            input = input.permute(0, 3, 1, 2)
        outputs = self.program(input)
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        return dict(zip(self.output_names, outputs, strict=True))


def convert(job: ExportJob, *, nhwc: bool, pixel_bytes: bool) -> bytes:
    """Convert the captured model to a float `.tflite` with one signature: `input` and `job.output_names`.

    Args:
        nhwc: the input is (N, H, W, C).
        pixel_bytes: the input is uint8, from 0 to 255, and the model takes pixels in [0, 1].

    Raises:
        UnsupportedError: litert-torch cannot convert the model.
    """
    program = job.capture()
    job.progress("Converting to LiteRT")
    program = move_to_cpu(program)
    adapter = IOAdapter(lower(program), job.output_names, nhwc=nhwc, pixel_bytes=pixel_bytes)
    example = job.example_input.cpu()
    if pixel_bytes:
        example = (255 * example).round().to(torch.uint8)
    if nhwc:
        example = example.permute(0, 2, 3, 1).contiguous()
    with quiet(), quick_decompositions():
        import litert_torch

        try:
            content = litert_torch.convert(adapter, sample_kwargs={"input": example}).model_content()
        except (OSError, MemoryError):
            raise
        except Exception as exc:  # litert-torch, jax and MLIR raise many types for what they cannot lower
            reason = " ".join(str(exc).split()) or type(exc).__name__
            raise UnsupportedError(
                f"litert-torch cannot convert this model: {reason[:300].rstrip('.')}",
                hint="use timmx onnx or timmx torch-export, which support most models",
            ) from exc
    return flatten_biases(content)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what litert-torch, jax, absl and MLIR print by default.

    TensorFlow reads its two settings when the converter's library is loaded, so they have no effect if it is already
    imported. Without `LITERT_TORCH_SILENCE_TORCH_LOGS` litert-torch would remove torch's log handlers permanently.
    """
    settings = {"LITERT_TORCH_SHOW_PROGRESS": "n", "LITERT_TORCH_SILENCE_TORCH_LOGS": "n"}
    for name, value in (("TF_CPP_MIN_LOG_LEVEL", "3"), ("TF_ENABLE_ONEDNN_OPTS", "0")):
        settings[name] = os.environ.get(name, value)
    before = {name: os.environ.get(name) for name in settings}
    disabled, handlers = logging.root.manager.disable, list(logging.root.handlers)
    os.environ.update(settings)
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers  # the first `logging.warning()` adds one that prints
        for name, earlier in before.items():
            if earlier is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = earlier
