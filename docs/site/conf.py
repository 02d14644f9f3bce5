# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sphinx's settings of the documentation: `make docs` lays out its sources and calls it."""

from __future__ import annotations

project = "as215932.engineering_loop"
copyright = "AS215932"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
root_doc = "index"
html_theme = "furo"
html_title = "Engineering loop"
html_show_sphinx = False
highlight_language = "yaml"
smartquotes = False
# Ansible's own pages, to which antsibull-docs refers, are not fetched for a link: their names stay as text.
suppress_warnings = ["misc.highlighting_failure", "ref.ref"]
