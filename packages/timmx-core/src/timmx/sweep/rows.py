"""Makes the cells of a plan from what children report."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from timmx.model import load_index
from timmx.sweep.cell import Cell, CellStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from timmx.sweep.models import SweepModel
    from timmx.sweep.plan import SweepPlan


class Rows:
    """The rows of a plan's table; each has one cell per target.

    Args:
        plan: the plan; its models are not used.

    Attributes:
        columns: see `SweepPlan.columns`.
        versions: see `SweepPlan.versions`.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self.columns = plan.columns
        self.versions = plan.versions()
        self._plan, self._backends = plan, plan.backends()
        self._index = load_index(build=False)

    def family(self, model: SweepModel) -> str:
        """A model's family by name; the child corrects it when it has loaded the model."""
        indexed = self._index.models.get(model.name.partition(".")[0]) if self._index else None
        return indexed.family if indexed else ""

    def cell(self, model: SweepModel, number: int, values: Mapping[str, Any]) -> Cell:
        """A cell that has ended now.

        Args:
            model: its row.
            number: of its target.
            values: other attributes of `Cell`, as JSON values.
        """
        status = CellStatus(values["status"])
        cell = Cell(
            model=model.label,
            target=self.columns[number],
            backend=self._backends[number],
            key=self._plan.keys(model)[number],
            **{**values, "status": status, "notes": tuple(values.get("notes", ()))},
            command="" if status.passed else self._plan.command(model, number),
            versions=self.versions[number],
            ended=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        # infinity and NaN are text in what a child reports, as in the journal
        return Cell.from_json(cell.to_json())
