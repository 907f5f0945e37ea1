"""`python -m timmx`."""

import os
import sys
from contextlib import suppress

# `python -m` searches the current folder first, which may be untrusted; `timmx` does not search it at all.
with suppress(FileNotFoundError):  # it was deleted
    if sys.path[0] in ("", os.getcwd()):  # noqa: PTH109 - the text that Python has put there
        del sys.path[0]

from timmx.cli import main

if __name__ == "__main__":
    main()
