"""What the kit cannot know: this backend's own options, and its answers where something goes wrong."""

import json

import pytest
import timmx
import torch
from timmx.testing import awakened_model


def export(path, **options):
    return timmx.export("torchscript", awakened_model("test_resnet"), output=path, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.torchscript"


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_file_has_constants_in_place_of_parameters(path, freeze):
    export(path, freeze=freeze)
    assert bool(list(torch.jit.load(path).parameters())) is not freeze


def test_optimized_numerics_differ_in_the_last_digits(path):
    measured = [export(path, optimize_numerics=fold).verification.snr_db for fold in (False, True)]
    assert 90 < measured[1] <= measured[0]


def test_optimized_numerics_without_freezing_are_refused(path):
    with pytest.raises(timmx.ConfigurationError, match="hint: leave one of them out"):
        export(path, freeze=False, optimize_numerics=True)


def test_plain_torch_reads_the_metadata(path):
    result = export(path)
    extra = {"timmx.json": ""}
    torch.jit.load(path, _extra_files=extra)
    assert json.loads(extra["timmx.json"]) == result.metadata
    assert result.metadata["format"] == {"frozen": True, "optimize_numerics": False, "device": "cpu"}


def test_a_file_without_metadata_is_reported(path):
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), path)
    with pytest.raises(timmx.ArtifactError, match="was not written by timmx"):
        timmx.open(path)


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(timmx.ArtifactError, match="File too large"):
            export(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not path.exists()
