"""`timmx.plugin`: what backends import, light and documented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import timmx.plugin

GUIDE = Path(__file__).parents[2] / "docs" / "backend-authors.md"
HEAVY = {"torch", "timm", "torchvision", "numpy", "onnx", "onnxruntime", "coremltools", "litert_torch", "PIL"}

LIGHT = (
    "ExportBackend Capabilities Problem Precision Exported ExportJob ExportRequest NoOptions Runner TensorSpec "
    "OpenSettings Device Quantization Metadata Snippet Floats Ints CalibrationData CalibrationMethod Calibration "
    "TimmxError ArtifactError ConfigurationError MissingRequirementError RuntimeUnavailable UnsupportedError "
    "VerificationError reporter Reporter usable_cores door require_file atomic_write check_calibration "
    "calibration_flags"
)
"""What a backend's `plugin.py` and `options.py` may need."""


def test_names_for_help_and_errors_import_nothing_heavy(process):
    code = (
        "import sys, timmx.plugin\n"
        f"for name in {LIGHT!r}.split(): getattr(timmx.plugin, name)\n"
        "print(*{name.split('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_the_guide_documents_every_public_name():
    """Each in one row of the tables under `timmx.plugin, name by name`, and no other name."""
    (section,) = re.findall(
        r"^## `timmx.plugin`, name by name\n(.*?)^## ", GUIDE.read_text("utf-8"), re.M | re.S
    )
    rows = re.findall(r"^\| `(\w+)` \| \S.* \|$", section, re.M)
    assert len(set(rows)) == len(rows), "a name is documented twice"
    assert set(rows) == set(timmx.plugin.__all__)
