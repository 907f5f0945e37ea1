from timmx.tools.verify.locate import (
    LocatedOperations as LocatedOperations,
    locate_operations as locate_operations,
)
from timmx.tools.verify.verification import verify_file as verify_file
