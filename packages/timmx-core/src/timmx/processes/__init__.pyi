from timmx.processes.child import WAITING_THREADS as WAITING_THREADS
from timmx.processes.forking import is_safe_to_fork as is_safe_to_fork
from timmx.processes.launcher import (
    Child as Child,
    Message as Message,
    ProcessLauncher as ProcessLauncher,
    StartMethod as StartMethod,
)
