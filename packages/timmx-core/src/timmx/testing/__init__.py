"""The conformance kit: subclass `BackendConformance` in a backend's tests and run pytest.

    from timmx.testing import BackendConformance

    class TestMyFormat(BackendConformance):
        backend = "my-format"

It needs the extra `timmx-core[testing]`. See docs/backend-authors.md.
"""

import pkgutil

try:
    import pytest
except ModuleNotFoundError as exc:
    raise ImportError(
        "timmx.testing needs pytest, which is not installed\nhint: uv pip install 'timmx-core[testing]'"
    ) from exc

# pytest rewrites the assertions of test files only, unless a module is registered before it is imported.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

from timmx.testing.conformance import BackendConformance  # noqa: E402 - after the registration
from timmx.testing.models import awaken, awakened_model  # noqa: E402

__all__ = ["BackendConformance", "awaken", "awakened_model"]
