from timmx.report.content import (
    Bars as Bars,
    Better as Better,
    Column as Column,
    Distributions as Distributions,
    Grid as Grid,
    Group as Group,
    Groups as Groups,
    Kind as Kind,
    Matrix as Matrix,
    Outcome as Outcome,
    Point as Point,
    Report as Report,
    Scatter as Scatter,
    Section as Section,
    Table as Table,
    Tone as Tone,
)
from timmx.report.machine import environment as environment, this_command as this_command
from timmx.report.render import check_report_path as check_report_path, write_report as write_report
