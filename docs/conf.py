"""How Sphinx builds the site: `make docs`."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pygments.lexers.promql import PromQLLexer
from pygments.token import Name

import prodpool

project = "prodpool"
author = "The prodpool developers"
copyright = author  # noqa: A001  # Sphinx fixes the name
release = prodpool.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# A link, a name in a docstring or a type in a signature that leads nowhere is a warning, and a warning fails.
nitpicky = True
# No page of theirs is looked up: the build works without a network.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(_?asyncio|collections|concurrent|contextlib|contextvars|pickle|threading|typing)\..*",
    ),
    (
        r"py:.*",
        r"(flask|grpc|opentelemetry|prometheus_client|pybreaker|starlette)\..*|CollectorRegistry|TracerProvider",
    ),
    # As docstrings name those of the standard library.
    (r"py:.*", r"Executor|Exception|BaseException|HTTPException|\w+Error"),
    # Type variables.
    (r"py:.*", r"(prodpool\..*\.)?[PT]"),
]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "prodpool"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
# furo's own links to an edit page would need the address of a repository.
html_theme_options = {"top_of_page_buttons": []}

# The parts of a docstring that are one labelled sentence or two, such as "Threads: safe from any thread."
_LABELLED = re.compile(r"(asyncio|Cost|Source|Threads): ")


def _set_labels_apart(
    _app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]
) -> None:
    """Make a paragraph of each labelled part: as they are written, they would run into one another."""
    written: list[str] = []
    inside = False
    for line in lines:
        labelled = _LABELLED.match(line)
        inside = bool(labelled) or (inside and line.startswith(" "))
        if labelled:
            written += ["", f"**{labelled[1]}:** {line[labelled.end() :]}"]
        else:
            written.append(line.strip() if inside else line)
    lines[:] = written


# What autodoc makes of a function's type variables, and cannot read again: it would then show all of it raw.
_VARIABLE = re.compile(r"(~typing\.)?~(?:prodpool\.\w+\.)?([PT])\b(?:\.(?:kw)?args)?")


def _name_variables(
    _app: Any,
    _what: str,
    _name: str,
    _obj: Any,
    _options: Any,
    signature: str | None,
    returned: str | None,
) -> tuple[str | None, str | None]:
    """Write a type variable as its name."""
    shown, result = (
        text and _VARIABLE.sub(r"\2", text) for text in (signature, returned)
    )
    return shown, result


class PromQL(PromQLLexer):
    """Knows the names of recorded series too, which have colons: Pygments 2.21 takes those for errors."""

    tokens: ClassVar = {
        **PromQLLexer.tokens,
        "root": [(r"\w+(:\w+)+", Name.Variable), *PromQLLexer.tokens["root"]],
    }


def setup(app: Any) -> None:
    """Rewrite docstrings before napoleon reads them, and signatures; read PromQL as Prometheus does."""
    app.add_lexer("promql", PromQL)
    app.connect("autodoc-process-signature", _name_variables)
    app.connect("autodoc-process-docstring", _set_labels_apart, priority=400)
