from timmx.base.bars import without_progress_bars as without_progress_bars
from timmx.base.devices import exact_cuda as exact_cuda
from timmx.base.doors import door as door
from timmx.base.files import (
    artifact_size as artifact_size,
    atomic_write as atomic_write,
    cache_folder as cache_folder,
    check_companion as check_companion,
    check_path as check_path,
    may_replace as may_replace,
    require_artifact as require_artifact,
    require_file as require_file,
    same_file as same_file,
    sha256 as sha256,
    walk as walk,
    why_not_in as why_not_in,
)
from timmx.base.memory import (
    available_bytes as available_bytes,
    can_measure_processes as can_measure_processes,
    memory_bytes as memory_bytes,
    peak_resident_bytes as peak_resident_bytes,
    reset_peak as reset_peak,
    resident_bytes as resident_bytes,
)
from timmx.base.progress import Reporter as Reporter, reporter as reporter, reporting as reporting
from timmx.base.reading import (
    NotRegularFile as NotRegularFile,
    open_file as open_file,
    read_file as read_file,
    special_kind as special_kind,
)
from timmx.base.snr import SignalToNoise as SignalToNoise, worst_db as worst_db
from timmx.base.strict_json import brief as brief, parse_json as parse_json
from timmx.base.tables import format_table as format_table
from timmx.base.text import (
    counted as counted,
    is_utf8 as is_utf8,
    locale_problem as locale_problem,
    looks_like_utf16 as looks_like_utf16,
    path_problem as path_problem,
    printable as printable,
    shown as shown,
    size_text as size_text,
)
from timmx.base.threads import (
    WAIT_POLICY as WAIT_POLICY,
    usable_cores as usable_cores,
    wait_without_spinning as wait_without_spinning,
)
from timmx.base.watching import WATCHER as WATCHER, announce as announce, watcher as watcher
