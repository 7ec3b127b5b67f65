"""What is put into a page stays text."""

from xml.etree import ElementTree

import pytest
from jinja2 import UndefinedError

from paddle_csrl.compare.tables import Table
from paddle_csrl.utils.html import render

HOSTILE = """<script>alert("1", '2') {{7*7}} &amp;"""


def test_every_text_of_a_comparison_is_escaped():
    rows = [[HOSTILE, HOSTILE], [f"{HOSTILE} *", ""]]
    table = Table(HOSTILE, [HOSTILE, HOSTILE], rows, [HOSTILE])
    text = render("comparison.html", title=HOSTILE, notes=[HOSTILE], scores=[table],
                  plots=["<svg><title>a plot</title></svg>"], others=[table])
    page = ElementTree.fromstring(text[text.index("<body>"):text.index("</html>")])
    tags = [item.tag for item in page.iter() if item.text == HOSTILE]
    assert tags == ["h1", "p", *2 * ["h2", "th", "th", "td", "td", "p"]]
    assert [item.tag for item in page.iter("svg")] == ["svg"] and not list(page.iter("script"))
    assert [row[0].text for row in page.iter("tr") if row.get("class")] == 2 * [f"{HOSTILE} *"]


def test_a_value_that_is_missing_is_no_empty_place():
    with pytest.raises(UndefinedError, match="'notes' is undefined"):
        render("comparison.html", title="", scores=[], plots=[], others=[])
