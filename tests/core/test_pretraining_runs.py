"""What was named in pretraining, in all that a run says of itself; and weights that are refused.

Class ids of the data: 0 background, 1 cat, 2 dog, 3 cow, 4 car; cow and car are unseen.
"""

import os
import re
import shutil

import pytest

from helpers.tiny_runs import custom, run_all
from paddle_csrl.add_class.change import add_classes
from paddle_csrl.doctor import config as doctor
from paddle_csrl.doctor.installation import OK, PROBLEM, WARNING
from paddle_csrl.errors import UserError
from paddle_csrl.models.trained_labels import IMAGENET, LabelSet, write_labels
from paddle_csrl.stages import stage_names
from paddle_csrl.utils import read_json

FORBID = "zero_shot.pretraining=forbid"
NAMED = {"cow": "ox", "car": "ambulance and 11 more"}
TOLD = "ImageNet-1k, which named cow (ox), car (ambulance and 11 more)"
ADDRESS = "https://bj.bcebos.com/paddleseg/dygraph/resnet50_vd_ssld_v2.tar.gz"


@pytest.fixture(scope="module")
def weights(finished, tmp_path_factory):
    """``weights(*labels)``: a segmentor that fits, with a record of ``labels`` if any."""
    def make(*labels):
        path = str(tmp_path_factory.mktemp("weights") / "w.pdparams")
        shutil.copy(finished("custom").path("segmentor", "model.pdparams"), path)
        if labels:
            write_labels(path, labels)
        return path

    return make


@pytest.fixture(scope="module")
def imagenet(weights):
    return weights(LabelSet(IMAGENET))


@pytest.fixture
def recipe(tmp_path):
    return custom(str(tmp_path / "data"), str(tmp_path / "cache"))


def page(run):
    with open(run.path("report.html"), encoding="utf-8") as file:
        return " ".join(file.read().split())


def test_a_run_says_everywhere_which_unseen_classes_were_named(recipe, imagenet, tmp_path, capsys):
    run = run_all(recipe, tmp_path / "run", f"model.pretrained={imagenet}", drawn=True)
    log = capsys.readouterr().out
    assert run.metrics["pretraining"] == {"labels": ["ImageNet-1k"], "named": NAMED}
    assert read_json(run.path("metrics.json"))["pretraining"] == run.metrics["pretraining"]
    audit, = re.findall("audit: .*", log)
    assert audit.endswith(f"pretraining: {TOLD}")
    assert re.search(r"\| cow +\| unseen, named \|", log) and re.search(r"\| cat +\| +seen \|", log)
    assert "unseen classes NAMED in pretraining" in log
    assert log.index("were named in pretraining: cow (ox)") < log.index("[segmentor]")
    text = page(run)
    assert f'<p class="warning">Labels of pretraining: {TOLD}.</p>' in text
    assert "<td>cow † *</td>" in text and "<td>cat</td>" in text and "†: named" in text


def test_a_run_from_scratch_says_so_and_nothing_is_marked(finished):
    run = finished("custom")
    assert run.metrics["pretraining"] == {"labels": [], "named": {}}
    assert "<p>Labels of pretraining: none.</p>" in page(run) and "†" not in page(run)


@pytest.mark.parametrize("labels, reason", [
    ((), "with unknown labels"),
    ([LabelSet(IMAGENET)], r"with labels of unseen classes: cow \(ox\), car \(ambulance"),
    ([LabelSet(IMAGENET, ("cow",))], r"with labels of unseen classes: car \(ambulance"),
    ([LabelSet(IMAGENET, ("voc",)), LabelSet("voc", ("cow",))],
     r"with labels of unseen classes: car \(car\);")])
@pytest.mark.parametrize("key", ["model.pretrained", "segmentor_weights"])
def test_weights_that_are_forbidden_are_refused_before_anything_is_made(
        recipe, weights, tmp_path, key, labels, reason):
    path = weights(*labels)
    with pytest.raises(UserError, match=f"`{key}: {path}` were trained {reason}"):
        run_all(recipe, tmp_path / "run", f"{key}={path}", FORBID)
    left = os.listdir(tmp_path / "run") if os.path.isdir(tmp_path / "run") else []
    assert not set(left) & {*stage_names(), "metrics.json", "model.pdparams"}


def test_weights_pass_for_the_classes_that_they_leave_out(recipe, weights, tmp_path):
    path = weights(LabelSet(IMAGENET, ("voc",)))
    run = run_all(recipe, tmp_path / "run", f"segmentor_weights={path}", FORBID)
    assert run.metrics["pretraining"] == {"labels": ["ImageNet-1k without voc"], "named": {}}


def test_the_key_makes_no_finished_stage_run_again(finished, tmp_path):
    run = finished("custom").copy(tmp_path / "run")
    assert not run.redo(FORBID) & set(stage_names())
    assert [run.open(FORBID).changes(stage) for stage in run.open().stages] == [[]] * 4


def test_unknown_weights_are_called_unknown(recipe, weights, tmp_path, capsys):
    run = run_all(recipe, tmp_path / "run", f"segmentor_weights={weights()}", drawn=True)
    log = capsys.readouterr().out
    assert run.metrics["pretraining"] == {"labels": ["unknown"], "named": {}}
    assert "pretraining: unknown" in log and "nothing tells which labels the weights of" in log
    assert '<p class="warning">Labels of pretraining: unknown.</p>' in page(run)


def test_a_record_of_labels_that_comes_later_is_told_by_the_same_command(
        recipe, weights, tmp_path):
    path = weights()
    run = run_all(recipe, tmp_path / "run", f"segmentor_weights={path}", drawn=True)
    write_labels(path, [LabelSet(IMAGENET)])
    run.again(f"segmentor_weights={path}", drawn=True)
    assert read_json(run.path("metrics.json"))["pretraining"] == {
        "labels": ["ImageNet-1k"], "named": NAMED}
    assert f"Labels of pretraining: {TOLD}." in page(run)


def test_scored_weights_with_a_record_speak_for_themselves(finished, weights):
    run = finished("custom")
    path = weights(LabelSet(IMAGENET, ("voc",)), LabelSet("voc", ("cow",)))
    assert run.val(model_path=path)["pretraining"] == {
        "labels": ["ImageNet-1k without voc", "voc without cow"], "named": {"car": "car"}}
    assert run.val()["pretraining"] == {"labels": [], "named": {}}


def test_the_doctor_tells(recipe, imagenet, weights):
    def look(*opts):
        return [finding for finding in doctor.examine(recipe.config, [*recipe.opts, *opts])
                if finding.subject == "pretraining"]

    [scratch], [known] = look(), look(f"model.pretrained={imagenet}")
    assert (scratch.status, scratch.text) == (OK, "labels: none")
    assert known.status == WARNING and "cow (ox), car" in known.text and known.advice
    [left_out] = look(f"model.pretrained={weights(LabelSet(IMAGENET, ('voc',)))}")
    assert left_out.status == OK and left_out.text == (
        "labels: ImageNet-1k without voc, which named no unseen class")
    [refused] = look(f"model.pretrained={imagenet}", FORBID)
    assert refused.status == PROBLEM and "cow (ox)" in refused.text


def test_a_class_added_later_is_looked_up_too(finished, tmp_path, capsys):
    folder, opts = finished("custom").folder, [f"model.pretrained={ADDRESS}"]
    add_classes(folder, ["pony=horse", "sky"], str(tmp_path / "new"), opts=opts)
    warning, = re.findall(".*named in pretraining: .*", capsys.readouterr().out)
    assert "pony (sorrel);" in warning and "sky" not in warning
    with pytest.raises(UserError, match=r"forbid.*unseen classes: pony \(sorrel\)"):
        add_classes(folder, ["pony=horse"], str(tmp_path / "other"), opts=[*opts, FORBID])
    assert sorted(os.listdir(tmp_path)) == ["new"]
    add_classes(folder, ["sky"], str(tmp_path / "sky"), opts=[*opts, FORBID])
