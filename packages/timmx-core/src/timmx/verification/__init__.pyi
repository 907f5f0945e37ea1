from timmx.verification.arithmetic import (
    Model as Model,
    Skipped as Skipped,
    below_floor as below_floor,
    compare_by_operation as compare_by_operation,
    judge_arithmetic as judge_arithmetic,
)
from timmx.verification.comparison import (
    FLOORS_DB as FLOORS_DB,
    Reference as Reference,
    Status as Status,
    VerificationReport as VerificationReport,
    run_reference as run_reference,
    verify as verify,
)
from timmx.verification.operations import (
    OperationFigures as OperationFigures,
    OperationReport as OperationReport,
)
