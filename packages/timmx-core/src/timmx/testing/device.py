"""Checks that need a GPU; run them with `pytest -m device`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from timmx.testing.base import ConformanceBase, requires

if TYPE_CHECKING:
    from collections.abc import Callable

    from timmx.exporting import ExportResult


class DeviceChecks(ConformanceBase):
    """The same exports with `--device cuda`."""

    @pytest.mark.device
    @requires("cuda")
    @pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
    def test_export_on_cuda(self, export: Callable[..., ExportResult], model: str) -> None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("this machine has no CUDA device; test_export runs the same export on the CPU")
        result = export(model, device="cuda")
        assert result.verification.status == "verified", result.verification.reason
