"""Models and inputs whose outputs distinguish a correct conversion from a wrong one."""

from __future__ import annotations

import numpy as np
import timm
import torch
from timmx.base.snr import worst_db
from timmx.contract.options import ExportRequest
from timmx.exporting.session import ModelSession
from timmx.testing import awaken
from torch import nn


class Does(nn.Module):
    """A function as a module with one input named `input`."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, input):
        return self.function(input)


def witness(name, model_options=None, **request):
    """A session, the inputs for which its outputs vary most, and the ratio in dB that float32 can reach for them.

    With random weights some families hardly depend on the input (hiera: 0.03 % of its output's energy varies with
    noise) or amplify rounding (efficientnet_b0): no conversion can be closer than a rounding of the input.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = awaken(timm.create_model(name, **model_options or {}))
    session = ModelSession(ExportRequest(model=model, verify=False, **request))
    module = session.capture().module()
    images = torch.from_numpy(session.reference.samples.take(range(3)))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    best, best_db = images, -np.inf
    for inputs in (images, noise):
        nudged = inputs * (1 + 2**-22 * inputs.sign())
        resolved_db = worst_db(answers(module, inputs), answers(module, nudged))
        if resolved_db > best_db:
            best, best_db = inputs, resolved_db
    return session, best, best_db


@torch.no_grad()
def answers(module, inputs):
    """Each output for all inputs, computed one image at a time."""
    parts = [module(image) for image in inputs.split(1)]
    parts = [[part] if isinstance(part, torch.Tensor) else list(part) for part in parts]
    return [torch.cat(part).numpy() for part in zip(*parts, strict=True)]
