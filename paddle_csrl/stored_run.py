"""A finished run as it lies in its folder, without its data set."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from paddleseg.utils.utils import CachedProperty as cached_property

from paddle_csrl.builder import ZeroShotBuilder
from paddle_csrl.classes import ClassTable
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.deploy.model import DeployBuilder
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run


class StoredBuilder(DeployBuilder):
    """A ``DeployBuilder`` that also has the class embeddings.

    The data set is asked for only where the embeddings are its own attributes.
    """

    def show_msg(self, *args: Any) -> None:
        """PaddleSeg's builder shows the section of what it makes; here that is known."""

    @cached_property
    def class_names(self) -> list[str]:
        return list(self.classes.names)

    @cached_property
    def unseen_ids(self) -> np.ndarray:
        return self.classes.unseen_ids

    @cached_property
    def _inner_val(self) -> Any:
        if (self.config.zero_shot.get("embeddings") or {}).get("path") == "attributes":
            return ZeroShotBuilder(self.config)._inner_val
        return super()._inner_val

    def _classes_of_config(self) -> ClassTable:
        return ClassTable.of(ZeroShotBuilder(self.config))


class StoredRun(Run):
    """A ``Run`` that reads no data.

    Args:
        folder (str): with the ``config.yml`` that the run wrote.
        opts (list[str]): overrides as for ``ZeroShotConfig``.
        overrides (dict, optional): the same as dotted key to value.

    Raises:
        UserError: the folder holds no config or no final model.
    """

    builder: StoredBuilder

    def __init__(self, folder: str, opts: Sequence[str] = (),
                 overrides: dict[str, Any] | None = None):
        path = os.path.join(folder, "config.yml")
        if not os.path.isfile(path):
            raise UserError(f"no config.yml in {folder}; name the folder of a finished run, such "
                            f"as output/demo")
        super().__init__(ZeroShotConfig(path, opts=opts,
                                        overrides={**(overrides or {}), "save_dir": folder}))
        self.builder = StoredBuilder(self.config, self.final_model)

    def require_finished(self, stages: Sequence[str]) -> None:
        """Insist that the ``stages`` have finished, whatever their inputs were.

        Raises:
            UserError: one has not, or its result is gone.
        """
        for stage in stages:
            if not self.is_finished(stage):
                raise UserError(f"{self.output(stage)} is missing or stage {stage} has not "
                                f"finished; run tools/train.py -c {self.save_dir}/config.yml "
                                f"--save_dir {self.save_dir} --stage {stage}")
