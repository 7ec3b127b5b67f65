"""HTML pages from the templates in ``assets/templates``, each one file that needs no other."""

import jinja2

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("paddle_csrl", "assets/templates"), autoescape=True,
    undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: object) -> str:
    """Fill in a template; texts among the ``values`` are escaped.

    Raises:
        jinja2.UndefinedError: the template asks for something that is not among them.
    """
    return _TEMPLATES.get_template(template).render(values)
