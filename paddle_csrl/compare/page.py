"""The results of a comparison as one HTML file that needs no other."""


from paddle_csrl.compare.results import Results
from paddle_csrl.compare.tables import Table, all_tables, notes
from paddle_csrl.visualize import page


def html(results: Results, plots: dict[str, str]) -> str:
    """The page: notes, score tables, plots (SVG texts by name), then the other tables."""
    tables = all_tables(results)
    scores, others = tables[:len(results.plan.splits)], tables[len(results.plan.splits):]
    body: list[str] = [*map(page.paragraph, notes(results)), *map(_table, scores),
                       *([page.heading("Plots")] if plots else []),
                       *map(page.wide, plots.values()), *map(_table, others)]
    return page.html(results.plan.name, body)


def _table(table: Table) -> str:
    return "\n".join([page.heading(table.title), page.table(table.header, table.rows),
                      *map(page.paragraph, table.notes)])
