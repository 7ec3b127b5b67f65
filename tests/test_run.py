"""What is finished, what has changed, and whose files are whose."""

import os
import shutil
from pathlib import Path

import pytest

from helpers.tiny_config import tiny_content, write_config
from paddle_csrl import run as run_module
from paddle_csrl import run_folder as folder_module
from paddle_csrl.config import ZeroShotConfig
from paddle_csrl.errors import UserError
from paddle_csrl.run import Run
from paddle_csrl.stages import Stage, segmentor
from paddle_csrl.stages.checkpoints import write_record
from paddle_csrl.utils import read_json, write_json
from paddle_csrl.utils.record import checksum

STAGES = ("segmentor", "features", "generator", "classifier")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return tiny_content(str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def make_run(tmp_path, content):
    """Runs on the tiny config that write below ``tmp_path``, with dotted keys set."""

    def make_run(changes=None, resume_model=None, **overrides):
        path = write_config(tmp_path / "tiny.yml", {**content, "save_dir": str(tmp_path / "out")})
        return Run(ZeroShotConfig(path, overrides={**(changes or {}), **overrides}), resume_model)

    return make_run


def record_of(run, stage):
    return os.path.join(run.folder(stage), "stage.json")


def finish(run, stages=STAGES):
    """Leave what finished stages leave, with outputs that stand in for the real ones."""
    for stage in stages:
        run.begin(stage)
        Path(run.output(stage)).write_text(f"output of {stage}")
        run.finish(stage, format=1, inputs=run.inputs(stage), made={"seconds": 1.0})


@pytest.fixture
def run(make_run):
    """A run with all stages finished."""
    run = make_run()
    finish(run)
    return run


def changed(run):
    """{stage: changed inputs} of the stages that have changes."""
    return {stage: run.changes(stage) for stage in STAGES if run.changes(stage)}


def test_nothing_is_finished_at_first(make_run):
    run = make_run()
    assert [run.changes(stage) for stage in STAGES] == [None] * 4
    assert not os.path.exists(run.save_dir)


def test_finished_stages_are_up_to_date_in_a_new_process(run, make_run):
    assert [make_run().changes(stage) for stage in STAGES] == [[]] * 4


def test_an_input_reads_the_same_after_building(make_run):
    # PaddleSeg's builder writes into the config that it builds from.
    run = make_run()
    before = run.inputs("segmentor")
    finish(run, ["segmentor"])
    run.builder.new_segmentor(), run.builder.loss
    run.builder.train_dataset[0]
    assert run.changes("segmentor") == [] and make_run().inputs("segmentor") == before


@pytest.mark.parametrize("changes, expected", [
    ({"seed": 5}, dict.fromkeys(STAGES, ["seed"])),
    ({"zero_shot.unseen": ["dog"]}, dict.fromkeys(STAGES, ["unseen"])),
    ({"iters": 3}, {"segmentor": ["iters"]}),
    ({"batch_size": 1}, {"segmentor": ["batch_size"]}),
    ({"lr_scheduler.learning_rate": 0.5}, {"segmentor": ["lr_scheduler"]}),
    ({"model.backbone.width": 6}, {"segmentor": ["model"], "features": ["model"]}),
    ({"model.align_corners": True}, {"segmentor": ["model"], "features": ["model"]}),
    ({"precision": "fp16"}, {"segmentor": ["precision"],
                              "features": ["amp_level", "precision"]}),
    ({"zero_shot.features.samples_per_class": 9}, {"features": ["features"]}),
    ({"zero_shot.features.normalize": False},
     {"generator": ["normalize"], "classifier": ["normalize"]}),
    ({"zero_shot.features.transforms": [{"type": "Normalize"}]}, {"features": ["transforms"]}),
    ({"val_dataset.transforms": [{"type": "Normalize"}]},
     {"segmentor": ["val_dataset"], "features": ["transforms"]}),
    ({"zero_shot.embeddings.path": "glove100"}, {}),  # the default
    ({"zero_shot.embeddings.path": ["glove100", "glove100"]},
     {"generator": ["embeddings"], "classifier": ["embeddings"]}),
    ({"zero_shot.embeddings.normalize": False},
     {"generator": ["embeddings"], "classifier": ["embeddings"]}),
    ({"generator.num_samples": 5}, {"generator": ["generator"]}),
    ({"generator.seed": 5}, {"generator": ["seed"]}),
    ({"generator.lr_scheduler.learning_rate": 0.5}, {"generator": ["generator"]}),
    ({"classifier.calibration": 1.0}, {"classifier": ["classifier"]}),
    ({"classifier.unseen_share": 0.5}, {"classifier": ["classifier"]}),
    ({"log_iters": 3, "save_interval": 7}, {}),
    ({"generator.relation": "prototypes", "classifier.seen_cost": 0.1}, {}),  # the defaults
    ({"generator.log_iters": 3, "classifier.save_interval": 3}, {}),
    ({"keep_checkpoint_max": 1, "use_vdl": False}, {}),
    ({"test_config": {}}, {}),
    ({"test_config": {"flip_vertical": True}}, {}),  # without `aug_eval` it means nothing
    ({"test_config": {"crop_size": [8, 8], "stride": [8, 8]}}, {}),
    ({"test_config": {"flip_vertical": True, "aug_eval": True}}, {"segmentor": ["test_config"]}),
    ({"save_interval": 1}, {"segmentor": ["save_interval"]}),
    ({"generator.unseen_prototypes": "hull"},
     {"classifier": ["generator.unseen_prototypes"]}),
    ({"zero_shot.policy": "drop"},
     {"segmentor": ["data", "policy", "val_data"], "features": ["data"]}),
    ({"num_workers": 2}, {}),
])
def test_a_change_touches_the_stages_that_depend_on_it(run, make_run, changes, expected):
    assert changed(make_run(changes)) == expected


DICE, ENTROPY = {"type": "DiceLoss"}, {"type": "CrossEntropyLoss"}


@pytest.mark.parametrize("types, number, is_mended", [
    ([{"type": "MixedLoss", "losses": [DICE, ENTROPY], "coef": [1, 1]}], 1, True),
    ([{"type": "MixedLoss", "losses": [ENTROPY, DICE], "coef": [1, 1]}], 1, False),
    ([DICE, ENTROPY], 2, True), ([ENTROPY, DICE], 2, False), ([DICE], 2, True), ([DICE], 1, False)])
def test_training_with_labels_that_dice_loss_overwrote_is_out_of_date(
        make_run, types, number, is_mended):
    run = make_run({"loss": {"types": types, "coef": [1.0] * number}})
    finish(run)
    assert changed(run) == {}
    record = read_json(record_of(run, "segmentor"))
    record["inputs"].pop("labels_after_DiceLoss", None)  # as it was before
    write_json(record_of(run, "segmentor"), record)
    assert changed(run) == ({"segmentor": ["labels_after_DiceLoss"]} if is_mended else {})


def test_other_training_images_are_a_change(run, make_run, content):
    found = changed(make_run({"train_dataset.train_path": content["val_dataset"]["val_path"]}))
    assert found == {"segmentor": ["data"], "features": ["data"]}


def test_another_id_for_the_same_class_name_is_a_change(run, make_run, content, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("background\ncat\ncow\ndog\ncar\n")
    found = changed(make_run({"zero_shot.class_names": str(names)}))
    assert all("unseen" in found[stage] for stage in STAGES)


@pytest.fixture
def elsewhere(content, tmp_path):
    """Settings for a copy of the data, written just now, and its folder."""
    root = tmp_path / "copy"
    shutil.copytree(content["train_dataset"]["dataset_root"], root, copy_function=shutil.copyfile)
    return {"train_dataset.dataset_root": str(root), "val_dataset.dataset_root": str(root),
            "train_dataset.train_path": str(root / "train.txt"),
            "val_dataset.val_path": str(root / "val.txt")}, root


def add_a_byte(path):
    """Change a file, behind its content, and let it look as before but for its size."""
    status = os.stat(path)
    with open(path, "ab") as file:
        file.write(b"\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_copy_of_the_data_is_no_change(run, make_run, elsewhere):
    assert changed(make_run(elsewhere[0])) == {}


@pytest.mark.parametrize("name, expected", [
    ("labels/train_0001.png", {"segmentor": ["data"], "features": ["data"]}),
    ("images/train_0001.jpg", {"segmentor": ["data"], "features": ["data"]}),
    ("labels/val_0000.png", {"segmentor": ["val_data"]}),
    ("images/val_0000.jpg", {"segmentor": ["val_data"]})])
def test_other_content_of_a_file_is_a_change(run, make_run, elsewhere, name, expected):
    settings, root = elsewhere
    add_a_byte(root / name)
    assert changed(make_run(settings)) == expected


def test_what_checkpoints_are_chosen_by(make_run, elsewhere):
    """It stays what it is when the data move, and for a longer training."""
    chosen_by = segmentor._chosen_by(make_run().context)
    windows = {"is_slide": True, "crop_size": [16, 16], "stride": [16, 16]}
    for changes, is_same in (({"iters": 9, "save_interval": 1}, True), (elsewhere[0], True),
                             ({"test_config": windows}, False),
                             ({"val_dataset.transforms": []}, False)):
        assert (segmentor._chosen_by(make_run(changes).context) == chosen_by) == is_same, changes


def test_validation_is_no_input_of_what_does_not_look_at_it(make_run, elsewhere):
    off = {"do_eval": False}
    finish(make_run(off))
    settings, root = elsewhere
    add_a_byte(root / "labels" / "val_0000.png")
    assert changed(make_run({**settings, **off, "save_interval": 1, "test_config.is_slide": True,
                             "test_config.crop_size": [8, 8], "test_config.stride": [8, 8],
                             "val_dataset.edge": True})) == {}
    assert changed(make_run(settings))["segmentor"]


def test_pretrained_weights_count_by_their_content(make_run, tmp_path):
    paths = [tmp_path / f"{name}.pdparams" for name in "ab"]
    for path in paths:
        path.write_text("weights")
    first, second = ({"model.pretrained": str(path)} for path in paths)
    finish(make_run(first))
    assert changed(make_run(first)) == changed(make_run(second)) == {}
    paths[0].write_text("WEIGHTS")
    assert changed(make_run(first)) == {"segmentor": ["pretrained"]}
    assert changed(make_run()) == {"segmentor": ["pretrained"]}
    address = {"model.pretrained": "https://example.org/a.pdparams"}
    finish(make_run(address))
    assert changed(make_run(address)) == {}
    assert changed(make_run({"model.pretrained": "https://example.org/b.pdparams"})) == {
        "segmentor": ["pretrained"]}


def test_given_weights_do_not_hide_what_labels_mean(make_run, tmp_path, content):
    (tmp_path / "w.pdparams").write_text("weights")
    given = {"segmentor_weights": str(tmp_path / "w.pdparams"), "zero_shot.policy": "drop",
             "zero_shot.label_names": ["background", "cat", "dog", "cow", "car"]}
    finish(make_run(given))
    assert changed(make_run(given)) == {}
    swapped = {**given, "zero_shot.label_names": ["background", "dog", "cat", "cow", "car"]}
    assert changed(make_run(swapped)) == {"features": ["label_names"]}
    edged = {**given, "train_dataset.edge": True}
    assert changed(make_run(edged)) == {"features": ["train_dataset"]}


# Records of before 0.2.0.

@pytest.fixture
def old_run(make_run, elsewhere):
    """A run whose records know files by times, and not all inputs; and its settings."""
    settings, root = elsewhere
    settings = {**settings, "generator.outside_hull": 0.5}
    run = make_run(settings)
    finish(run)
    for stage in STAGES:
        record = read_json(record_of(run, stage))
        inputs = {key: value for key, value in record["inputs"].items()
                  if key not in run.stage(stage).new_inputs}
        if stage == "segmentor":
            inputs.update({key: run.config.given[key] for key in ("train_dataset", "val_dataset")})
        if stage == "generator":
            inputs["generator"] = run.config.section("generator").model_dump(mode="json")
        if "data" in inputs:
            inputs["data"] = run.builder.fingerprint_by_times("seen")
        write_json(record_of(run, stage), {**record, "inputs": inputs})
    return run, settings, root


def test_an_old_record_is_current_as_long_as_all_it_knows_is_the_same(old_run, make_run):
    run, settings, root = old_run
    assert changed(make_run(settings)) == {}
    add_a_byte(root / "labels" / "val_0000.png")  # of which it knows nothing
    assert changed(make_run(settings)) == {}
    add_a_byte(root / "labels" / "train_0000.png")
    assert changed(make_run(settings)) == {"segmentor": ["data"], "features": ["data"]}


def test_what_another_old_record_knows_counts(old_run, make_run):
    run, settings, root = old_run
    for key, value in {"outside_hull": 0.0, "unseen_prototypes": "hull"}.items():
        assert changed(make_run({**settings, f"generator.{key}": value})) == {
            "classifier": [f"generator.{key}"]}
    record = read_json(record_of(run, "generator"))
    del record["inputs"]["generator"]["outside_hull"]  # as in 0.1.0, which had the default alone
    write_json(record_of(run, "generator"), record)
    assert changed(make_run(settings)) == {"classifier": ["generator.outside_hull"]}


def test_an_old_record_knows_all_from_the_next_time_on(old_run, make_run):
    run, settings, root = old_run
    for stage in STAGES:
        run.bring_up_record(stage)
    os.utime(root / "labels" / "train_0000.png")
    assert changed(make_run(settings)) == {}
    add_a_byte(root / "labels" / "val_0000.png")
    assert changed(make_run(settings)) == {"segmentor": ["val_data"]}
    add_a_byte(root / "labels" / "train_0000.png")
    assert changed(make_run(settings)) == {"segmentor": ["data", "val_data"], "features": ["data"]}


def test_a_record_that_knows_all_is_left_alone(run):
    before = os.stat(record_of(run, "segmentor")).st_mtime_ns
    run.bring_up_record("segmentor")
    assert os.stat(record_of(run, "segmentor")).st_mtime_ns == before


@pytest.mark.parametrize("stage, expected", [
    ("segmentor", {"features": ["segmentor"], "classifier": ["segmentor"]}),
    ("features", {"generator": ["bank"], "classifier": ["bank"]}),
    ("generator", {"classifier": ["generator"]}),
    ("classifier", {}),
])
def test_a_changed_output_touches_the_stages_after_it(run, make_run, stage, expected):
    Path(run.output(stage)).write_text("something else")
    assert changed(make_run()) == expected


@pytest.mark.parametrize("content_", [b"", b"{\"finished\": tru", b"\xff\x00\x80", b"[1, 2]",
                                      b"{}", b"{\"finished\": false}", b"null", b"5"])
def test_a_record_that_is_not_whole_means_unfinished(run, content_):
    Path(record_of(run, "generator")).write_bytes(content_)
    assert run.changes("generator") is None and run.changes("classifier") == []


def test_a_record_without_inputs_means_that_all_have_changed(run):
    write_json(record_of(run, "generator"), {"finished": True})
    assert run.changes("generator") == sorted(run.inputs("generator"))


def test_a_stage_without_its_output_is_unfinished(run):
    os.remove(run.output("features"))
    assert run.changes("features") is None


def test_a_stage_that_begins_is_unfinished_and_empty(run):
    run.begin("features")
    assert run.changes("features") is None
    assert os.listdir(run.folder("features")) == ["stage.json"]
    assert os.path.isfile(run.output("segmentor"))


def test_files_of_something_else_are_left_alone(make_run):
    run = make_run()
    os.makedirs(run.folder("segmentor"))
    precious = Path(run.folder("segmentor"), "thesis.txt")
    precious.write_text("years of work")
    with pytest.raises(UserError, match="segmentor holds files of something else; .*--save_dir"):
        run.begin("segmentor")
    assert precious.read_text() == "years of work"


def test_an_empty_folder_is_taken(make_run):
    run = make_run()
    os.makedirs(run.folder("segmentor"))
    run.begin("segmentor")
    assert os.listdir(run.folder("segmentor")) == ["stage.json"]


@pytest.mark.parametrize("record, is_kept", [
    ({"finished": True, "made": {"seconds": 61}}, True),
    ({"finished": True, "made": {"seconds": 59}}, False),
    ({"finished": True}, True),  # of a time when nobody wrote down how long it took
])
def test_what_took_longer_than_a_minute_is_kept_aside(run, record, is_kept):
    write_json(record_of(run, "segmentor"), record)
    run.begin("segmentor")
    kept = [name for name in os.listdir(run.save_dir) if name.startswith("segmentor_")]
    assert len(kept) == is_kept
    if is_kept:
        aside = Path(run.save_dir, kept[0], "model.pdparams")
        assert aside.read_text() == "output of segmentor"
    assert os.listdir(run.folder("segmentor")) == ["stage.json"]


def test_an_unfinished_stage_is_kept_by_the_times_of_its_files(make_run):
    for late, expected in ((30, 0), (300, 1)):
        run = make_run()
        run.begin("segmentor")
        path = make_checkpoint(os.path.join(run.folder("segmentor"), "iter_5"))
        began = os.path.getmtime(record_of(run, "segmentor"))
        os.utime(os.path.join(path, "model.pdopt"), (began + late, began + late))
        run.begin("segmentor")
        assert len(os.listdir(run.save_dir)) == 1 + expected


def test_work_before_a_resumption_counts(run):
    path = make_checkpoint(os.path.join(run.folder("segmentor"), "iter_5"))
    began = os.path.getmtime(record_of(run, "segmentor"))
    for name in os.listdir(path):
        os.utime(os.path.join(path, name), (began - 300, began - 300))
    run.begin("segmentor", resumed=True)
    run.begin("segmentor")
    assert len([name for name in os.listdir(run.save_dir) if name.startswith("segmentor_")]) == 1


def test_a_stage_marked_unfinished_still_took_its_time(run):
    write_json(record_of(run, "segmentor"), {"finished": True, "made": {"seconds": 61}})
    run.mark_unfinished("segmentor")
    assert not run.is_finished("segmentor")
    run.begin("segmentor")
    assert len([name for name in os.listdir(run.save_dir) if name.startswith("segmentor_")]) == 1


def test_the_final_model_is_not_that_of_a_stage_that_the_config_has_no_more(run, monkeypatch):
    Path(run.result).write_text("model")
    assert run.has_final_model()

    class Mine(Stage):
        name = result = "mine"
        makes_model = True

        def takes_part(self, config):
            return False

        def run(self, context):
            raise NotImplementedError

    monkeypatch.setattr(run_module, "STAGES", [*run_module.STAGES, Mine()])
    assert run.has_final_model()
    os.makedirs(run.folder("mine"))
    write_json(record_of(run, "mine"), {"finished": True})
    assert run.foreign_makers() == ["mine"] and not run.has_final_model()
    run.mark_unfinished("mine")
    assert run.has_final_model()


def test_a_restart_deletes(run, monkeypatch):
    monkeypatch.setattr(folder_module, "KEPT_SECONDS", 0.5)
    run.restart = True
    run.begin("segmentor")
    assert sorted(os.listdir(run.save_dir)) == sorted(STAGES)


def test_another_format_is_a_change(run, make_run, monkeypatch):
    monkeypatch.setattr(type(make_run().stage("features")), "format", 2)
    assert changed(make_run()) == {"features": ["format"]}


def test_records_of_0_1_0_are_read_as_they_were_meant(run, make_run, content):
    """They hold the version and ``save_interval``, sections as given, and no format."""
    given = {key: content[key] for key in ("generator", "classifier")}
    for stage, others in {"segmentor": {"save_interval": 500, "test_config": None,
                                        "precision": None, "do_eval": None},
                          "features": {"features": content["zero_shot"]["features"]},
                          "generator": {"generator": given["generator"]},
                          "classifier": {"classifier": given["classifier"]}}.items():
        path = record_of(run, stage)
        inputs = {**read_json(path)["inputs"], **others, "paddle_csrl": "0.1.0"}
        write_json(path, {"finished": True, "inputs": inputs})
    assert changed(make_run()) == {}
    assert changed(make_run({"generator.relation_warmup": 1})) == {"generator": ["generator"]}


def test_a_finished_stage_satisfies(run):
    assert [run.require_current(stage) for stage in STAGES] == [None] * 4


def make_checkpoint(folder, files=("model.pdparams", "model.pdopt")):
    os.makedirs(folder)
    for name in files:
        Path(folder, name).touch()
    return str(folder)


@pytest.mark.parametrize("aside", ["", "_2026-11-27_10-00-00", "_2026-11-27_10-00-00_1"])
@pytest.mark.parametrize("stage", STAGES[:1] + STAGES[2:])
def test_a_checkpoint_belongs_to_the_stage_of_its_folder(make_run, tmp_path, stage, aside):
    """Also if an earlier result of the stage was kept there."""
    folder = make_checkpoint(tmp_path / "out" / f"{stage}{aside}" / "iter_5")
    run = make_run(resume_model=folder + os.sep)
    assert {other: run.resumes(other) for other in STAGES} == {
        other: folder if other == stage else None for other in STAGES}


def test_a_checkpoint_from_elsewhere_is_one_of_stage_one(make_run, tmp_path):
    run = make_run(resume_model=make_checkpoint(tmp_path / "elsewhere" / "iter_5"))
    assert run.resumes("segmentor") and not run.resumes("generator")


def test_a_relative_checkpoint_is_found_from_inside_the_stage(make_run, tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path / "out" / "generator" / "iter_5")
    monkeypatch.chdir(tmp_path / "out" / "generator")
    assert make_run(resume_model="iter_5").resumes("generator") == folder


def test_beginning_keeps_the_checkpoint_that_is_resumed(run, make_run, tmp_path):
    folder = make_checkpoint(tmp_path / "out" / "segmentor" / "iter_1")
    make_run(resume_model=folder).begin("segmentor", resumed=True)
    assert os.path.isfile(os.path.join(folder, "model.pdopt"))
    assert run.changes("segmentor") is None


def test_a_stage_stopped_after_another_runs_checkpoint_goes_on_from_its_own(make_run, tmp_path):
    given = make_checkpoint(tmp_path / "other" / "generator" / "iter_1")
    run = make_run(resume_model=given)
    finish(run, STAGES[:2])
    inputs = run.inputs("generator")
    for record, expected in (({"inputs": inputs}, given),
                             ({"inputs": inputs, "resumed_from": given}, "iter_2"),
                             ({"inputs": {**inputs, "seed": 9}, "resumed_from": given}, given)):
        run.origins["generator"] = record
        run.begin("generator")
        assert run.goes_on_from("generator") == given
        newer = make_checkpoint(os.path.join(run.folder("generator"), "iter_2"))
        write_record(newer, {"files": {}})
        assert run.goes_on_from("generator") == (given if expected == given else newer)
    finish(run, STAGES[2:3])
    assert run.goes_on_from("generator") == given


@pytest.mark.parametrize("name, files, match", [
    ("iter_5", (), ".*iter_1000"),
    ("iter_5", ("model.pdparams",), ".*iter_1000"),
    ("iter_5", ("model.pdopt",), ".*iter_1000"),
    ("best_model", ("model.pdparams", "model.pdopt"), ".*iter_1000"),
    ("absent_1", None, "no model.pdparams"),
])
def test_what_is_no_checkpoint_cannot_be_resumed(make_run, tmp_path, name, files, match):
    folder = tmp_path / "segmentor" / name
    if files is not None:
        make_checkpoint(folder, files)
    with pytest.raises(UserError, match=f"--resume_model .*{name}: {match}"):
        make_run(resume_model=str(folder))


def test_a_stages_own_seed_comes_before_the_runs(make_run):
    run = make_run({"seed": 3, "generator.seed": 4})
    assert [run.seed(stage) for stage in STAGES] == [3, 3, 4, 3]


def test_checksum_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # The test vector of FIPS 180.
    assert checksum(str(tmp_path / "a")) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
