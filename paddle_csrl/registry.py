"""Registration into PaddleSeg's component managers, plus the registry PaddleSeg lacks."""

from collections.abc import Callable
from typing import TypeVar

from paddleseg.cvlibs import manager

Component = TypeVar("Component", bound=type)

#: Evaluators, for programs of users: `reset/update/merge/compute` over predictions and labels.
EVALUATORS = manager.ComponentManager("evaluators")


def register(registry: manager.ComponentManager) -> Callable[[Component], Component]:
    """Like ``registry.add_component``, but a taken name is an error.

    PaddleSeg only warns and overwrites, so that the outcome depends on the order of imports.

    Raises:
        KeyError: a different component already owns the name.
    """

    def add(component: Component) -> Component:
        name = component.__name__
        if name in registry.components_dict:
            raise KeyError(f"{name} is already registered in PaddleSeg's {registry.name}")
        return registry.add_component(component)

    return add
