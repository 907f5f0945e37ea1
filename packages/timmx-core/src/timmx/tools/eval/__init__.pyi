from timmx.tools.eval.evaluation import Comparison as Comparison, Evaluation as Evaluation
from timmx.tools.eval.report import evaluation_report as evaluation_report, worst_first as worst_first
from timmx.tools.eval.running import evaluate as evaluate
