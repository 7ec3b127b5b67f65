"""What is registered can be named in YAML, and a name that is taken cannot be taken again."""

import inspect
import typing

import numpy as np
import pytest
from paddle import io, nn
from paddleseg.cvlibs import manager

from paddle_csrl.registry import EVALUATORS, register

REGISTRIES = (manager.MODELS, manager.BACKBONES, manager.DATASETS, manager.TRANSFORMS,
              manager.LOSSES, EVALUATORS)
#: Arguments that PaddleSeg builds from nested sections, or that the builder hands over.
BUILT = {"backbone": nn.Layer, "dataset": io.Dataset}
COMPONENTS = [component for registry in REGISTRIES
              for component in registry.components_dict.values()
              if component.__module__.startswith("paddle_csrl.")]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.__name__)
def test_what_is_registered_takes_nothing_that_yaml_cannot_give(component):
    types = typing.get_type_hints(component.__init__)
    wrong = {name: types[name] for name in inspect.signature(component).parameters
             if types[name] is not BUILT.get(name)
             and (types[name] is np.ndarray
                  or isinstance(types[name], type) and issubclass(types[name], nn.Layer))}
    assert wrong == {}


def test_a_name_that_is_taken_is_an_error():
    registry = manager.ComponentManager("things")
    first, second = (type("Thing", (), {}) for _ in range(2))
    assert register(registry)(first) is first
    with pytest.raises(KeyError, match="Thing is already registered in PaddleSeg's things"):
        register(registry)(second)
    assert registry["Thing"] is first
