"""Sphinx's settings. `make docs` builds the pages into docs/_build/html, with every warning an error."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "ACmix-NAS"
author = "the authors of ACmix-NAS"
release = metadata.version("acmix-nas")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference"]
exclude_patterns = ["_build"]

# Links to headings, by the names that GitHub gives them.
myst_heading_anchors = 3
# Notebooks keep the outputs that they are stored with.
nb_execution_mode = "off"
# Pages must open without a network, and MyST-NB would load the scripts of widgets from one.
nb_ipywidgets_js: dict[str, dict[str, str]] = {}

napoleon_numpy_docstring = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
# Methods of PyTorch and Lightning that are written anew here would bring texts of theirs.
autodoc_inherit_docstrings = False
# Names of other packages lead nowhere without a network; those of this one must lead somewhere.
nitpick_ignore_regex = [(r"py:.*", r"(?!acmix_nas\.).*"), (r"py:class", r".*\.(C|S|T|Kind)")]  # and variables of types

html_theme = "furo"
html_title = f"ACmix-NAS {release}"
html_copy_source = False
html_show_sourcelink = False
