"""How Sphinx makes the site: the pages as they are, and an API reference from the docstrings. `make docs` runs it."""

import clip_as_rnn

project = "clip-as-rnn"
author = "The clip-as-rnn developers"
release = clip_as_rnn.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"clip-as-rnn {release}"
html_show_sourcelink = False
html_copy_source = False
default_role = "code"  # as the docstrings mean single backticks
highlight_language = "text"  # indented blocks are commands and drawings

myst_heading_anchors = 4  # as GitHub makes them
# Links out of this folder have no page here. tests/documents/test_documents.py holds every link and anchor.
suppress_warnings = ["myst.xref_missing"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True  # attributes stand once, as the docstrings describe them
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!clip_as_rnn\.).*"),  # names of ours must be on a page; others have none here
    ("py:.*", r"clip_as_rnn\.(stages\.(Stages|Models)|state\.EncodedTexts|dense_crf\.crf\.Array)"),  # parts, an alias
]
