from timmx.tools.compare.comparison import Row as Row, SideBySide as SideBySide, compare as compare
from timmx.tools.compare.report import compare_report as compare_report
