"""Stage 1 with ``zero_shot.embedding_head``, through tools/train.py."""

import pytest

from paddle_csrl.errors import UserError
from paddle_csrl.run import Run

HEAD = "zero_shot.embedding_head=0.5"


@pytest.fixture(scope="module")
def with_head(finished, tmp_path_factory):
    run = finished("shapes").copy(tmp_path_factory.mktemp("head") / "run")
    run.again(HEAD)
    return run


def test_the_result_is_a_stock_segmentor(with_head, finished):
    plain = finished("shapes")
    for stage in (("segmentor",), ()):
        before, after = plain.weights(*stage), with_head.weights(*stage)
        assert before.keys() == after.keys()
        assert {key: value.shape for key, value in before.items()} == \
            {key: value.shape for key, value in after.items()}
    assert any((plain.weights("segmentor")[key] != value).any()
               for key, value in with_head.weights("segmentor").items())


def test_it_is_an_input_of_stage_1_where_it_is_wanted(with_head, finished):
    plain = Run.open(finished("shapes").folder)
    assert plain.changes("segmentor") == []  # whose record says nothing of a head
    assert "embeddings" not in plain.inputs("segmentor")
    run = Run.open(with_head.folder)
    assert run.changes("segmentor") == []
    inputs = run.inputs("segmentor")
    assert inputs["embedding_head"] == 0.5 and "embeddings" in inputs


def test_another_weight_trains_anew(with_head, tmp_path, capfd):
    run = with_head.copy(tmp_path / "run")
    run.again("zero_shot.embedding_head=0.25", stage="segmentor")
    said = "".join(capfd.readouterr())
    assert "embedding_head" in said and "[segmentor] finished" in said


def test_a_projection_has_no_other_head(finished):
    projection = finished("spnet")
    run = Run.open(projection.folder, [HEAD])
    assert run.changes("segmentor") == []


@pytest.mark.parametrize("value", ["-1", "1000", "much"])
def test_what_is_no_weight(finished, tmp_path, value):
    run = finished("shapes").copy(tmp_path / "run")
    with pytest.raises(UserError, match=f"`zero_shot.embedding_head: {value}` must be"):
        run.again(f"zero_shot.embedding_head={value}")
