"""HTML pages from the templates in ``assets/templates``, each one file that needs no other."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def render(template: str, **values: object) -> str:
    """Fill in a template; texts among the ``values`` are escaped.

    Raises:
        jinja2.UndefinedError: the template asks for something that is not among them.
    """
    return _templates().get_template(template).render(values)


@cache
def _templates() -> "jinja2.Environment":
    import jinja2  # takes as long as a run's own work where everything is up to date

    return jinja2.Environment(
        loader=jinja2.PackageLoader("paddle_csrl", "assets/templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
