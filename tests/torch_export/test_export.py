"""`timmx torch-export` on the command's API; the files are read by `torch.export.load` without timmx."""

from __future__ import annotations

import json
import sysconfig

import numpy as np
import pytest
import timmx
import torch
from timmx.errors import ConfigurationError
from timmx.registry import discovery as registry
from timmx.testing import awakened_model

pytestmark = pytest.mark.usefixtures("export")


def export(model, path, **options):
    result = registry.load("torch-export").create_command()(model=model, output=path, **options)
    assert result.verification.status == "verified"
    return result


def test_file_with_dynamic_batch_loads_in_plain_torch(tmp_path, digits):
    path = tmp_path / "digits.pt2"
    result = export(digits, path, dynamic_batch=True)
    assert list(tmp_path.iterdir()) == [path]
    extra = {"timmx.json": ""}
    program = torch.export.load(path, extra_files=extra)
    assert json.loads(extra["timmx.json"]) == result.metadata
    for batch in (1, 2, 5):
        assert program.module()(torch.rand(batch, 3, 64, 64)).shape == (batch, 10)


def test_file_with_fixed_batch_refuses_another_batch_size(tmp_path, digits):
    result = export(digits, tmp_path / "digits.pt2", batch_size=3)
    program = torch.export.load(result.path)
    assert program.module()(torch.rand(3, 3, 64, 64)).shape == (3, 10)
    with pytest.raises((RuntimeError, AssertionError)):
        program.module()(torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize("strict", [False, True])
def test_fused_attention_stays_fused(tmp_path, awakened, strict):
    path, block = tmp_path / "vit.pt2", {"depth": 1}
    checkpoint = awakened("test_vit", **block)
    result = export(
        "test_vit", path, checkpoint=checkpoint, model_kwargs=block, strict=strict, dynamic_batch=True
    )
    assert result.metadata["format"] == {"strict": strict, "device": "cpu"}
    assert sysconfig.get_path("purelib").encode() not in path.read_bytes()
    targets = {str(node.target) for node in torch.export.load(path).graph.nodes}
    assert "aten.scaled_dot_product_attention.default" in targets
    assert not any("upsample" in target for target in targets)


def test_same_export_gives_the_same_bytes(tmp_path, digits):
    paths = [tmp_path / name / "digits.pt2" for name in ("one", "two")]
    for path in paths:
        export(digits, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_suffix_that_torch_cannot_load_is_refused(tmp_path, digits):
    with pytest.raises(ConfigurationError, match=r"must end in \.pt2"):
        export(digits, tmp_path / "digits.pt")


def test_inner_tensors_are_those_of_the_model(tmp_path):
    model = awakened_model("test_vit", depth=1)
    export(model, tmp_path / "vit.pt2", dynamic_batch=True)
    inputs = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with timmx.open(tmp_path / "vit.pt2") as runner, torch.inference_mode():
        first, last = runner.intermediates[0], runner.intermediates[-1]
        values = runner.run_intermediates({"input": inputs.numpy()}, (first, last))
        np.testing.assert_allclose(values[first], model.patch_embed.proj(inputs), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(values[last], runner.run({"input": inputs.numpy()})["output"])
