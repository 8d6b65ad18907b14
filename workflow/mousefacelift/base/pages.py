"""HTML pages from the templates of the package. A page is one file that needs no network."""

import functools
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape


def render(template: str, **values: Any) -> str:
    """The page that a file in `templates` makes of values. They are escaped, but for `Markup`."""
    return _environment().get_template(template).render(values)


def figure_html(figure: Any, height: str = "100%", with_plotly: bool = True) -> Markup:
    """A plotly figure as part of a page. with_plotly: with the library itself, which a page needs once, before its figures.

    height: as CSS gives it, for a figure that has none of its own.
    """
    # Plotly escapes the texts in its data itself.
    return Markup(figure.to_html(full_html=False, include_plotlyjs=with_plotly, default_height=height))


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("mousefacelift"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["code"] = _code
    return made


def _code(text: str) -> Markup:
    """Words between backticks as code."""
    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", str(escape(text))))
