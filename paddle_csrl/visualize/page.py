"""HTML pages that need no other file: no script, no font, no picture from elsewhere."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import cv2
import numpy as np

_STYLE = """
body { font: 15px/1.5 Helvetica, Arial, sans-serif; color: #202124; background: #fff;
       max-width: 1160px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.15em; margin: 2em 0 .5em; }
h3 { font-size: 1em; margin: 1.5em 0 .3em; }
p { color: #55585e; max-width: 75ch; margin: .4em 0; }
p.warning { color: #202124; background: #fff4e0; border-left: 5px solid #b24000;
            padding: .5em .8em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93em; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #e3e4e6;
         white-space: nowrap; }
th { border-bottom: 2px solid #9a9da3; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tr.unseen td:first-child { color: #b24000; font-weight: bold; }
.reason td { white-space: normal; text-align: left; }
table.bars { width: 100%; max-width: 800px; }
.bars td { border: 0; padding: .08em .5em; width: 1%; }
.bars td:last-child { width: 100%; }
.bar { display: block; height: .85em; min-width: 1px; background: #0072b2;
       print-color-adjust: exact; -webkit-print-color-adjust: exact; }
tr.unseen .bar { background: repeating-linear-gradient(135deg, #d55e00 0 5px, #f0a470 5px 8px); }
svg, img { max-width: 100%; height: auto; margin: .5em 0; }
.row { display: flex; flex-wrap: wrap; gap: 0 1.5em; align-items: flex-start; }
.row > * { flex: 0 1 auto; min-width: 0; } .row > figure { flex: 1 1 440px; max-width: 880px; }
figure { margin: 0 0 1em; } figcaption { color: #55585e; }
pre { background: #f4f5f6; padding: .6em .8em; font-size: .87em; white-space: pre-wrap;
      overflow-wrap: anywhere; }
summary { cursor: pointer; margin: .6em 0; }
"""


def html(title: str, body: Iterable[str]) -> str:
    """A page of the elements ``body``, below its ``title``, which is text."""
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width">'
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
            + "\n".join([heading(title, 1), *body]) + "\n</body></html>\n")


# What follows takes text, which it escapes, unless an argument is called `element`.

def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def warning(text: str) -> str:
    """A paragraph that stands out."""
    return f'<p class="warning">{escape(text)}</p>'


def preformatted(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def wide(element: str) -> str:
    """Something that scrolls by itself where the window is narrow."""
    return f'<div class="wide">{element}</div>'


def row(elements: Iterable[str]) -> str:
    """Things beside one another, as far as there is room."""
    return f'<div class="row">{"".join(elements)}</div>'


def details(summary: str, element: str) -> str:
    """Something that shows after a click on ``summary``; it needs no script."""
    return f"<details><summary>{escape(summary)}</summary>{element}</details>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a row whose first cell ends in a star is one of an unseen class."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    reason = ' class="reason"' if header[-1] == "reason" else ""
    return wide(f"<table{reason}><thead><tr>{head}</tr></thead>\n<tbody>"
                + "\n".join(map(_row, rows)) + "</tbody></table>") + "\n"


def _row(cells: Sequence[str]) -> str:
    return (f"<tr{_unseen(cells[0])}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            + "</tr>")


def _unseen(name: str) -> str:
    return ' class="unseen"' if name.endswith(" *") else ""


def bars(rows: Iterable[tuple[str, float | None]]) -> str:
    """Horizontal bars.

    Args:
        rows: names and shares from 0 to 1, None where there is none. A name that ends in a star
            is that of an unseen class: its bar has another colour and stripes.
    """
    return ('<table class="bars"><tbody>' + "\n".join(
        f"<tr{_unseen(name)}><td>{escape(name)}</td>"
        + ("<td>–</td><td></td>" if share is None else
           f'<td>{100 * share:.1f}</td><td><span class="bar" style="width:{100 * share:.2f}%">'
           f"</span></td>") + "</tr>" for name, share in rows) + "</tbody></table>\n")


def figure(picture: np.ndarray, caption: str) -> str:
    """A picture, uint8 RGB [H, W, 3], within the page: as PNG, or as JPEG where that is smaller."""
    image = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    files = {"png": cv2.imencode(".png", image)[1],
             "jpeg": cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]}
    kind = min(files, key=lambda name: len(files[name]))
    data = base64.b64encode(files[kind].tobytes()).decode()
    height, width = picture.shape[:2]
    return (f'<figure><img width="{width}" height="{height}" alt="{escape(caption)}" '
            f'src="data:image/{kind};base64,{data}"><figcaption>{escape(caption)}</figcaption>'
            f"</figure>")
