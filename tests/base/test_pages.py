"""Pages from templates: escaped, complete, without a network."""

import re

import jinja2
import pytest
from plotly import graph_objects

from mousefacelift.base.pages import figure_html, render


def test_a_page_is_one_file_that_needs_no_network():
    html = render("rig.html", title="a rig", figure=figure_html(graph_objects.Figure()))
    assert html.startswith("<!DOCTYPE html>") and html.endswith("</html>\n")
    assert "<title>a rig</title>" in html and "Plotly.newPlot" in html
    assert not re.search(r"<(script|link|img)[^>]+(src|href)\s*=", html)


def test_values_are_escaped_and_figures_are_not():
    html = render("rig.html", title="<b>&", figure=figure_html(graph_objects.Figure(), with_plotly=False))
    assert "<h1>&lt;b&gt;&amp;</h1>" in html and "<script" in html


def test_a_value_that_a_page_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="figure"):
        render("rig.html", title="a rig")
