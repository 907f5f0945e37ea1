"""Every timm family as an ML program: the lowered graph, float32 and float16 files, dynamic batch sizes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from timmx.base.snr import worst_db
from timmx_coreml.convert import quiet
from timmx_coreml.float32_islands import float32_islands
from timmx_coreml.lower import lower
from timmx_coreml.mil import MilEvaluator
from witnesses import answers, witness

pytestmark = pytest.mark.slow

FAMILIES = json.loads((Path(__file__).parents[1] / "families.json").read_text())
NAMED = [
    "resnet18",
    "efficientnet_b0",
    "tf_efficientnet_b0",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "maxvit_pico_rw_256",
    "mobilevit_s",
]
DYNAMIC = [
    "resnet18",
    "test_vit",
    "swin_tiny_patch4_window7_224",
    "test_convnext3",
    "test_efficientnet",
    "mobilevit_xxs",
    "maxvit_pico_rw_256",
    "levit_128s",
    "xcit_nano_12_p8_224",
    "csatv2",
    "hiera_tiny_224",
]


@pytest.mark.parametrize("name", FAMILIES + NAMED)
def test_family_converts_correctly(name, tmp_path):
    session, inputs, resolved_db = witness(name)
    program = session.capture()
    lowered = lower(program)
    reference = answers(program.module(), inputs)
    assert worst_db(reference, answers(lowered.module(), inputs)) >= min(100, resolved_db - 3)

    float32 = evaluate(convert(lowered, inputs, "iOS15"), tmp_path / "float32.mlpackage", inputs.split(1))
    assert worst_db(reference, float32) >= min(90, resolved_db - 15)

    selector = float32_islands(lowered, inputs.split(1))
    model = convert(lowered, inputs, "iOS18", half=True, selector=selector)
    float16 = evaluate(model, tmp_path / "float16.mlpackage", inputs.split(1))
    assert worst_db(reference, float16) >= min(22, resolved_db - 80)


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic_batch_size_converts_correctly(name, tmp_path):
    session, inputs, resolved_db = witness(name, dynamic_batch=True)
    program = session.capture()
    reference = answers(program.module(), inputs)
    model = convert(lower(program), inputs, "iOS15", dynamic=True)
    batches = [inputs[:1], inputs[1:]]
    assert worst_db(reference, evaluate(model, tmp_path / "dynamic.mlpackage", batches)) >= min(
        90, resolved_db - 15
    )


def convert(program, inputs, target, half=False, selector=None, dynamic=False):
    with quiet():
        import coremltools as ct

        precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
        count = ct.RangeDim(1, 8, default=1) if dynamic else 1
        return ct.convert(
            program,
            source="pytorch",
            minimum_deployment_target=ct.target[target],
            compute_precision=ct.transform.FP16ComputePrecision(selector) if selector else precision,
            inputs=[ct.TensorType("input", (count, *inputs.shape[1:]), np.float32)],
            skip_model_load=True,
        )


def evaluate(model, path, batches):
    model.save(str(path))
    evaluator = MilEvaluator(model.get_spec(), path / "Data" / "com.apple.CoreML")
    parts = [[np.asarray(value) for value in evaluator.run({"input": batch}).values()] for batch in batches]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]
