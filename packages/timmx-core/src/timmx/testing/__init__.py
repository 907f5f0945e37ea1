"""The conformance kit: subclass `BackendConformance` in a backend's tests, and run pytest.

    from timmx.testing import BackendConformance

    class TestMyFormat(BackendConformance):
        backend = "my-format"

It needs the extra `timmx-core[testing]`. docs/backend-authors.md shows it at work.
"""

from timmx.testing.conformance import BackendConformance
from timmx.testing.models import awaken, awakened_model

__all__ = ["BackendConformance", "awaken", "awakened_model"]
