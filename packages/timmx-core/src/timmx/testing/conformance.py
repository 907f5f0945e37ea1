"""The class that backend authors subclass, and the check that a subclass keeps all of its checks."""

from __future__ import annotations

from timmx.testing.base import ConformanceBase
from timmx.testing.device import DeviceChecks
from timmx.testing.exports import ExportChecks
from timmx.testing.parity import ParityChecks
from timmx.testing.static import StaticChecks
from timmx.testing.tools import ToolChecks


class CompletenessCheck(ConformanceBase):
    """Checks that a subclass removes or replaces no check without a reason."""

    def test_no_standard_check_is_lost(self) -> None:
        lost = [
            name
            for name, check in _standard_checks().items()
            if getattr(type(self), name, None) is not check and not self.overridden.get(name, "").strip()
        ]
        assert not lost, (
            f"{', '.join(lost)}: a standard check was deleted or replaced without a reason; give it in "
            "`overridden`, or declare the capability that the format lacks"
        )
        unknown = sorted(self.overridden.keys() - _standard_checks().keys())
        assert not unknown, f"`overridden` names checks that do not exist: {', '.join(unknown)}"


# pytest runs the checks of the last base class first: those that export nothing come before all others.
class BackendConformance(
    DeviceChecks, ToolChecks, ParityChecks, ExportChecks, StaticChecks, CompletenessCheck
):
    """All checks that a backend of contract 1 must pass. Subclass it and set `backend`.

    Do not delete a check that the format cannot pass: declare the capability as missing, with the reason. A
    check that you replace must be named in `overridden`, with the reason.
    """


def _standard_checks() -> dict[str, object]:
    return {
        name: getattr(BackendConformance, name)
        for name in dir(BackendConformance)
        if name.startswith("test_")
    }
