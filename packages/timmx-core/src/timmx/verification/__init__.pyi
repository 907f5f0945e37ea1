from timmx.verification.arithmetic import (
    Judgment as Judgment,
    Model as Model,
    Skipped as Skipped,
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
