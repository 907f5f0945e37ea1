from timmx.tools.inspect.inspection import Inspection as Inspection, inspect_file as inspect_file
