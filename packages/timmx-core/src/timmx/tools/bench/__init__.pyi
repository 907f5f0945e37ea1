from timmx.tools.bench.report import bench_report as bench_report, plotted_latencies as plotted_latencies
from timmx.tools.bench.result import BenchCase as BenchCase, BenchResult as BenchResult
from timmx.tools.bench.rounds import bench as bench
from timmx.tools.bench.subjects import check_seconds as check_seconds
