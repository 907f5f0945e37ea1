from timmx.verification.comparison import (
    FLOORS_DB as FLOORS_DB,
    Reference as Reference,
    Status as Status,
    VerificationReport as VerificationReport,
    run_reference as run_reference,
    verify as verify,
)
