from timmx.tools.compare.comparison import (
    FolderComparison as FolderComparison,
    Row as Row,
    compare as compare,
)
from timmx.tools.compare.report import compare_report as compare_report
