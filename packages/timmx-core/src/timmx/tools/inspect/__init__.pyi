from timmx.tools.inspect.inspection import (
    Inspection as Inspection,
    inspect_file as inspect_file,
    takes_bytes as takes_bytes,
)
