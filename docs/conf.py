"""The documentation site: `uv run --group docs sphinx-build -W --keep-going -b html docs site`.

Sphinx with MyST and Furo: kept up, plain Markdown that GitHub shows too, autodoc, and a search that needs no server.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "timmx"
author = "The timmx authors"
copyright = author
version = release = version_of("timmx-core")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "commands",
    "swift",
]
exclude_patterns = ["_ext"]

# Fenced blocks without a language are commands; those of the task and deploy pages run in tests/test_pages.py. A lexer
# for shells takes `eval` and `export` for the shell's own.
highlight_language = "text"
myst_heading_anchors = 4
myst_enable_extensions = ["alert"]
copybutton_exclude = ".linenos, .gp, .go"

smartquotes = False  # it makes one dash of two, also in `--options` of the help
default_role = "code"  # docstrings have single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes are described once, by the class

html_theme = "furo"
html_title = f"timmx {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "source_repository": "https://github.com/timmx/timmx/",
    "source_branch": "main",
    "source_directory": "docs/",
}
