from timmx.report.content import (
    Bars as Bars,
    Column as Column,
    Distributions as Distributions,
    Matrix as Matrix,
    Point as Point,
    Report as Report,
    Scatter as Scatter,
    Section as Section,
    Table as Table,
)
from timmx.report.machine import environment as environment, this_command as this_command
from timmx.report.render import check_report_path as check_report_path, write_report as write_report
