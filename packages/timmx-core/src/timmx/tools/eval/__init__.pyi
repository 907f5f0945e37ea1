from timmx.tools.eval.csv_output import check_csv_path as check_csv_path, write_csv as write_csv
from timmx.tools.eval.evaluation import Comparison as Comparison, Evaluation as Evaluation
from timmx.tools.eval.label_report import multi_label_report as multi_label_report
from timmx.tools.eval.multi_label import (
    LabelComparison as LabelComparison,
    MultiLabelEvaluation as MultiLabelEvaluation,
)
from timmx.tools.eval.report import evaluation_report as evaluation_report, worst_first as worst_first
from timmx.tools.eval.running import evaluate as evaluate
