from timmx.sweep.cell import Cell as Cell, CellStatus as CellStatus
from timmx.sweep.changes import Changes as Changes, compare_sweeps as compare_sweeps
from timmx.sweep.choices import OF_ONE_EXPORT as OF_ONE_EXPORT, Keep as Keep, ReportFormat as ReportFormat
from timmx.sweep.cluster import Cluster as Cluster
from timmx.sweep.connection import check_address as check_address
from timmx.sweep.driver import Limits as Limits
from timmx.sweep.journal import journal_of as journal_of
from timmx.sweep.models import find_models as find_models
from timmx.sweep.page import sweep_page as sweep_page
from timmx.sweep.parquet import check_parquet_path as check_parquet_path, write_parquet as write_parquet
from timmx.sweep.report import (
    changes_text as changes_text,
    csv_rows as csv_rows,
    markdown_report as markdown_report,
    text_report as text_report,
)
from timmx.sweep.start import run_sweep as run_sweep
from timmx.sweep.summary import Summary as Summary, summarize as summarize
from timmx.sweep.watching import Running as Running, Watcher as Watcher
