"""The results of a comparison as one HTML file that needs no other."""

from html import escape
from typing import Dict, List

from paddle_csrl.compare.results import Results
from paddle_csrl.compare.tables import Table, all_tables, notes

_STYLE = """
body { font: 15px/1.5 Helvetica, Arial, sans-serif; color: #202124; background: #fff;
       max-width: 1160px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.15em; margin: 2em 0 .5em; }
p { color: #55585e; max-width: 75ch; margin: .4em 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93em; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #e3e4e6;
         white-space: nowrap; }
th { border-bottom: 2px solid #9a9da3; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tr.unseen td:first-child { color: #b24000; font-weight: bold; }
.reason td { white-space: normal; text-align: left; }
svg { max-width: 100%; height: auto; margin: .5em 0; }
"""


def html(results: Results, plots: Dict[str, str]) -> str:
    """The page: notes, score tables, plots (SVG texts by name), then the other tables."""
    tables = all_tables(results)
    scores, others = tables[:len(results.plan.splits)], tables[len(results.plan.splits):]
    body: List[str] = [f"<h1>{escape(results.plan.name)}</h1>",
                       *(f"<p>{escape(note)}</p>" for note in notes(results)),
                       *map(_table, scores), *([_heading("Plots")] if plots else []),
                       *(f'<div class="wide">{plot}</div>' for plot in plots.values()),
                       *map(_table, others)]
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width">'
            f"<title>{escape(results.plan.name)}</title><style>{_STYLE}</style></head>\n<body>\n"
            + "\n".join(body) + "\n</body></html>\n")


def _heading(title: str) -> str:
    return f"<h2>{escape(title)}</h2>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "\n".join(_row(row) for row in table.rows)
    reason = ' class="reason"' if table.header[-1] == "reason" else ""
    return (f'{_heading(table.title)}\n<div class="wide"><table{reason}><thead><tr>{head}</tr>'
            f"</thead>\n<tbody>{rows}</tbody></table></div>\n"
            + "\n".join(f"<p>{escape(note)}</p>" for note in table.notes))


def _row(cells: List[str]) -> str:
    unseen = ' class="unseen"' if cells[0].endswith(" *") else ""
    return f"<tr{unseen}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
