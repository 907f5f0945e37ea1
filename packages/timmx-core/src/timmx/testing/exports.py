"""Checks that export tiny models with every shared option, and check the files."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from timmx.contract import ExportRequest, OutputKind
from timmx.errors import ArtifactError, ConfigurationError
from timmx.exporting import export as run_export
from timmx.registry import build, option_specs
from timmx.testing.base import (
    LABELS,
    ConformanceBase,
    Repeated,
    export_check,
    metadata_of,
    output_suffix,
    requires,
)
from timmx.testing.models import awakened_model, tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from timmx.contract import ExportBackend
    from timmx.exporting import ExportResult

    Export = Callable[..., ExportResult]

MODELS = ("test_resnet", "test_efficientnet", "test_vit")
GOOD = ("verified", "unproven")


class ExportChecks(ConformanceBase):
    """What a user notices about the files that a backend writes."""

    @pytest.mark.parametrize(
        "options",
        [
            {"mean": (0.5,), "normalize": False},
            {"batch_size": 0},
            {"softmax": True, "features": True},
            {"softmax": True, "sigmoid": True},
            {"output": "model.not-its-suffix"},
            {"verify": False, "min_snr": 10.0},
        ],
    )
    def test_bad_options_are_refused(self, export: Export, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError):
            export("test_resnet", checkpoint=None, **options)

    def test_a_folder_of_the_users_is_refused_and_stays(
        self, export: Export, subject: ExportBackend, tmp_path: Path
    ) -> None:
        folder = tmp_path / f"mine{output_suffix(subject, dict(self.export_options))}"
        folder.mkdir()
        (folder / "thesis.txt").touch()
        with pytest.raises(ArtifactError):
            export(output=folder)
        assert (folder / "thesis.txt").exists()

    @export_check
    @pytest.mark.parametrize("model", MODELS)
    def test_export(self, exported: Export, subject: ExportBackend, model: str) -> None:
        result = exported(model)
        assert result.path.exists()
        assert result.verification.status in GOOD, result.verification.reason
        assert set(result.files) == set(subject.files(result.path)), "`files` names all files of the artifact"
        assert set(result.path.parent.iterdir()) == set(result.files), "nothing else is written"

    @export_check
    @requires("dynamic_batch")
    @pytest.mark.parametrize("model", MODELS)
    def test_dynamic_batch(self, exported: Export, subject: ExportBackend, model: str) -> None:
        result = exported(model, **dynamic_batch(subject, model))
        assert metadata_of(result).dynamic_batch
        assert result.verification.status in GOOD, result.verification.reason

    @export_check
    @requires("dynamic_batch")
    def test_dynamic_batch_with_a_batch_size_of_one(self, exported: Export, subject: ExportBackend) -> None:
        if subject.capabilities.dynamic_batch_from_one is True:
            assert metadata_of(exported(dynamic_batch=True, batch_size=1)).dynamic_batch
        else:
            with pytest.raises(ConfigurationError):
                exported(dynamic_batch=True, batch_size=1)

    @export_check
    def test_checkpoint(self, classifier: ExportResult) -> None:
        from timmx.model import hash_weights

        module = awakened_model("test_resnet", num_classes=len(LABELS))
        assert metadata_of(classifier).model.weights_sha256 == hash_weights(module)

    @export_check
    def test_normalize_and_softmax(self, classifier: ExportResult) -> None:
        metadata = metadata_of(classifier)
        assert metadata.input.normalized_in_graph
        assert [output.kind for output in metadata.outputs] == [OutputKind.PROBABILITIES]

    @export_check
    def test_one_class_with_sigmoid(self, export: Export) -> None:
        model = tiny_model(num_classes=1)
        model[-1].weight.data *= 40  # type: ignore[index]
        result = export(model, sigmoid=True, labels=("one",))
        assert result.verification.status in GOOD, result.verification.reason
        (output,) = metadata_of(result).outputs
        assert (output.kind, output.activation, output.exclusive, output.shape[-1]) == (
            OutputKind.PROBABILITIES,
            "sigmoid",
            False,
            1,
        )

    @export_check
    def test_labels_travel(self, classifier: ExportResult, subject: ExportBackend) -> None:
        assert subject.read_metadata(classifier.path) == classifier.metadata
        assert metadata_of(classifier).labels == LABELS

    @export_check
    def test_odd_input_size_and_one_channel(self, export: Export) -> None:
        size = (1, 97, 129)
        result = export(awakened_model("test_resnet", in_chans=1), input_size=size)
        assert metadata_of(result).input.size == size

    @export_check
    def test_embedding(self, export: Export, subject: ExportBackend) -> None:
        size = (5, 64, 200)
        model = awakened_model("test_resnet", num_classes=0, in_chans=5)
        metadata = metadata_of(
            export(model, input_size=size, normalize=True, batch_size=batch_size(subject, 3))
        )
        assert metadata.input.size == size
        assert [output.name for output in metadata.outputs] == ["embedding"]

    @export_check
    @requires("several_outputs")
    def test_feature_pyramid(self, export: Export, tmp_path: Path) -> None:
        from safetensors.torch import save_model

        weights = tmp_path / "weights.safetensors"
        save_model(awakened_model("test_resnet", features_only=True), str(weights))
        # without the last two levels, whose layers the other checks convert
        result = export("test_resnet", checkpoint=weights, features=True, out_indices=(0, 1, 2))
        names = [output.name for output in metadata_of(result).outputs]
        assert names == [f"features_{index}" for index in range(len(names))]
        assert len(names) > 1

    @export_check
    @requires("reproducible")
    def test_same_bytes_twice(self, exported: Export, repeated: Repeated) -> None:
        for one, other in zip(exported().files, repeated.result.files, strict=True):
            assert _content(one) == _content(other), f"{one.name} has other bytes the second time"

    @export_check
    def test_nothing_is_written_elsewhere(self, repeated: Repeated) -> None:
        assert repeated.written_elsewhere == ()

    @export_check
    def test_failure_leaves_what_was_there(
        self, exported: Export, subject: ExportBackend, tmp_path: Path
    ) -> None:
        folder = tmp_path / "out"
        folder.mkdir()
        for path in exported().files:
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
        old = {path: _content(path) for path in folder.iterdir()}

        class Failing(type(subject)):  # type: ignore[misc]
            def export(self, job: Any, options: Any) -> Any:
                super().export(job, options)
                raise RuntimeError("induced after the file was written")

        options = dict(self.export_options)
        own = {name: options.pop(name) for name in list(options) if name in option_specs(subject.options)}
        output = folder / exported().path.name
        request = build(ExportRequest, options | {"model": tiny_model(), "output": output})
        with pytest.raises(RuntimeError, match="induced"):
            run_export(Failing(), request, build(subject.options, own))
        assert {path: _content(path) for path in folder.iterdir()} == old


def dynamic_batch(subject: ExportBackend, model: str) -> dict[str, Any]:
    """The shared options of a model's export with a dynamic batch size: one model is traced at a batch size of 1."""
    from_one = model == MODELS[0] and subject.capabilities.dynamic_batch_from_one is True
    return {"dynamic_batch": True} | ({"batch_size": 1} if from_one else {})


def batch_size(subject: ExportBackend, wanted: int) -> int:
    """A fixed batch size, or 1 if the format has no larger ones."""
    return wanted if subject.capabilities.larger_batches is True else 1


def _content(path: Path) -> Any:
    """A file's bytes, or a folder's by relative name."""
    if path.is_dir():
        return {str(item.relative_to(path)): item.read_bytes() for item in path.rglob("*") if item.is_file()}
    return path.read_bytes()
