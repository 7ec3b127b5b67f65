"""A loss that is no number ends the stage before anything of it is saved."""

import os

import pytest

from paddle_csrl.errors import UserError
from paddle_csrl.run import Run


@pytest.mark.parametrize("stage, term", [("generator", "MMDLoss"),
                                         ("classifier", "CrossEntropyLoss")])
def test_a_term_that_is_not_finite_ends_the_stage(finished, tmp_path, stage, term):
    run = finished("custom").copy(tmp_path / "run")
    with pytest.raises(UserError, match=rf"stage {stage} has diverged: {term}\S* is (nan|inf) at "
                                        rf"iteration \d; lower its learning rate .*checkpoint"):
        run.again(f"{stage}.lr_scheduler.learning_rate=3.0e38", f"{stage}.optimizer.type=SGD")
    assert Run.open(run.folder).changes(stage) is None
    assert not os.path.exists(run.path(stage, "iter_4"))
