"""Reading configs: what is checked, what is merged, what is refused and in which words."""

import copy
import glob
import os

import paddle
import pytest
from paddleseg.cvlibs import manager
from pydantic import ValidationError

from helpers.tiny_config import tiny_content, write_config
from helpers.tiny_runs import ROOT
from paddle_csrl.config import ZeroShotConfig, components, load_yaml, read_settings, schema, set_key
from paddle_csrl.config.load import merge
from paddle_csrl.errors import UserError

CONFIGS = os.path.join(ROOT, "configs")
#: All but the parts that others are made of, and comparisons, which are no configs.
SHIPPED = sorted(path for path in glob.glob(os.path.join(CONFIGS, "**", "*.yml"), recursive=True)
                 if "_base_" not in path.split(os.sep)
                 and not os.path.basename(path).startswith("compare_"))


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    return tiny_content(str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def load(tmp_path, content):
    """Load the tiny config with dotted keys set; a value of ``...`` takes the key away."""

    def load(changes=None, opts=None, overrides=None):
        whole = copy.deepcopy(content)
        for dotted, value in (changes or {}).items():
            *parents, last = dotted.split(".")
            section = whole
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
            if value is ...:
                del section[last]
        return ZeroShotConfig(write_config(tmp_path / "tiny.yml", whole), opts, overrides)

    return load


def refuses(load, match, **kwargs):
    with pytest.raises(UserError, match=match) as caught:
        load(**kwargs)
    assert "\n" not in str(caught.value)


def shipped(*names):
    return ZeroShotConfig(os.path.join(CONFIGS, *names))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: os.path.relpath(path, CONFIGS))
def test_every_shipped_config_loads(path):
    config = ZeroShotConfig(path)
    assert config.iters > 0 and config.settings.zero_shot.unseen


def test_shipped_splits_are_cumulative_and_as_long_as_their_names_say():
    for dataset in ("voc", "context"):
        before = []
        for count in (2, 4, 6, 8, 10):
            path = os.path.join(CONFIGS, f"csrl_{dataset}_unseen{count}.yml")
            unseen = ZeroShotConfig(path).settings.zero_shot.unseen
            assert len(unseen) == len(set(unseen)) == count and unseen[:count - 2] == before
            before = unseen


def test_every_shipped_config_writes_to_a_folder_of_its_own():
    folders = [ZeroShotConfig(path).save_dir for path in SHIPPED]
    assert len(set(folders)) == len(folders)


def csrl(data):
    """CSRL as its configs have it; that of one's own data stands among the ablations."""
    return (shipped("ablation", "csrl_hull_custom.yml") if data == "custom"
            else shipped(f"csrl_{data}.yml")).dic


@pytest.mark.parametrize("name", ["shapes", "custom"] + [
    f"{data}_unseen{number}" for data in ("voc", "context") for number in (2, 4, 6, 8, 10)])
def test_zs3net_differs_from_csrl_in_the_generator_alone(name):
    own, zs3net = csrl(name), shipped("zs3net", f"zs3net_{name}.yml").dic
    different = {key for key in set(own) | set(zs3net) if own.get(key) != zs3net.get(key)}
    assert different <= {"generator", "save_dir"}
    generators = own["generator"], zs3net["generator"]
    assert {key for key in generators[0] if generators[0][key] != generators[1][key]} == {
        "model", "relation", "loss", "unseen_prototypes"}
    assert zs3net["generator"]["model"] == {
        "type": "MLPGenerator", "noise_dim": 300, "hidden_dim": 256, "dropout": 0.5,
        "noise": "uniform"}
    assert zs3net["generator"]["loss"] == {"coef": [1.0], "types": [
        {"type": "MMDLoss", "bandwidths": [2, 5, 10, 20, 40, 80], "squared": False}]}


@pytest.mark.parametrize("data", ["voc_unseen2", "shapes", "custom"])
@pytest.mark.parametrize("name, terms, prototypes", [
    ("point", ["MMDLoss"], "free"),
    ("point_hull", ["MMDLoss"], "hull"),
    ("point_pair", ["MMDLoss", "PairwiseRelationLoss"], "free"),
    ("point_list", ["MMDLoss", "ListwiseRelationLoss"], "free"),
    ("all", ["MMDLoss", "PairwiseRelationLoss", "ListwiseRelationLoss"], "free"),
])
def test_an_ablation_is_csrl_without_some_of_its_parts(data, name, terms, prototypes):
    whole = csrl(data)
    part = shipped("ablation", f"{name}_{data}.yml").dic
    loss = whole["generator"]["loss"]
    kept = [number for number, item in enumerate(loss["types"]) if item["type"] in terms]
    expected = copy.deepcopy(whole)
    expected["generator"]["loss"] = {"types": [loss["types"][number] for number in kept],
                                     "coef": [1.0] * len(kept)}  # the paper's weights
    expected["generator"]["unseen_prototypes"] = prototypes
    assert len(kept) == len(terms)
    assert {**part, "save_dir": None} == {**expected, "save_dir": None}


def test_the_config_is_read_as_written(load, content, tmp_path):
    config = load()
    assert config.dic == content
    assert config.given["zero_shot"] == content["zero_shot"]
    assert config.iters == 2 and config.batch_size == 2 and config.settings.seed == 0
    assert config.save_dir == content["save_dir"]


def test_without_save_dir_the_results_are_named_after_the_config(load):
    assert load({"save_dir": ...}).save_dir == os.path.join("output", "tiny")


def test_a_stages_value_is_its_own_then_the_tops_then_the_default(load):
    config = load({"log_iters": 7, "generator.log_iters": 3, "seed": 5, "classifier.seed": 0})
    values = {name: config.section(name) for name in ("generator", "classifier")}
    assert [section.log_iters for section in values.values()] == [3, 7]
    assert [section.seed for section in values.values()] == [5, 0]
    assert {section.save_interval for section in values.values()} == {1000}
    assert (config.settings.log_iters, config.settings.save_interval) == (7, 1000)


def test_values_have_the_types_and_defaults_of_the_schema(load):
    config = load({"classifier.calibration": 2, "zero_shot.embeddings": None,
                   "zero_shot.features": None})
    assert config.section("classifier").calibration == 2.0
    assert config.section("classifier").unseen_share == "auto"
    assert config.settings.zero_shot.embeddings.words == {}
    assert config.settings.zero_shot.features.samples_per_class == 8192
    assert config.section("self_training") is None
    with pytest.raises(ValidationError, match="frozen"):
        config.settings.seed = 3


def test_settings_have_what_paddleseg_completes(load):
    config = load({"train_dataset.ignore_index": 65535, "val_dataset.ignore_index": 65535})
    assert config.settings.loss["types"] == [{"type": "CrossEntropyLoss", "ignore_index": 65535}]
    config.dic["loss"]["types"].clear()
    assert config.settings.loss["types"]


def test_a_flag_does_not_switch_a_stage_on(load):
    overrides = {"self_training.save_interval": 5, "classifier.save_interval": 5}
    config = load(overrides=overrides)
    assert config.section("self_training") is None
    assert config.section("classifier").save_interval == 5
    assert load({"self_training": {}}, overrides=overrides).section("self_training") \
        .save_interval == 5


def test_a_section_has_one_class():
    with pytest.raises(KeyError, match="generator is already registered"):
        schema.section("generator")(schema.Section)


@pytest.mark.parametrize("key, value, message", [
    ("loss", {"types": [{"type": "CrossEntropyLoss", "weight": "heavy"}], "coef": [1]},
     r"`loss.types\[0\]`: could not make CrossEntropyLoss"),
    ("zero_shot.policy", "foo", "`zero_shot.policy: foo` must be 'drop' or 'ignore'"),
    ("zero_shot.policy", ["drop"], "must be 'drop' or 'ignore'"),
    ("zero_shot.features.dtype", "float8", "dtype: float8` must be 'float32' or 'float16'"),
    ("zero_shot.features.transforms", {"type": "Normalize"}, "transforms: .*` must be a valid"),
    ("zero_shot.unseen", 5, "`zero_shot.unseen: 5` must be a list of names"),
    ("zero_shot.class_names", {"a": 1}, "`zero_shot.class_names: .*` must be a list of names"),
    *(("zero_shot.embeddings.path", value, "`zero_shot.embeddings.path: .*` must be a path or a "
       "list of paths, each in quotes")
      for value in (5, "", "[a.txt, b.txt]", [], [5], ["a.txt", None], {"a": 1})),
    ("zero_shot.embeddings.words", ["a"], "`zero_shot.embeddings.words` must hold `key: value`"),
    ("generator.relation", "foo", "`generator.relation: foo` must be 'edges' or 'prototypes'"),
    ("generator.unseen_prototypes", "foo", "unseen_prototypes: foo` must be 'free' or 'hull'"),
    ("generator.outside_hull", 2, "outside_hull: 2` must be less than or equal to 1"),
    ("generator.outside_hull", -0.1, "outside_hull: -0.1` must be greater than or equal to 0"),
    ("generator.outside_hull", "far", "outside_hull: far` must be a valid number"),
    ("generator.outside_hull", True, "outside_hull: True` must be a valid number"),
    ("generator.model", {"type": "StructuralGenerator", "num_layers": 0},
     "`generator.model`: StructuralGenerator: num_layers must be an integer >= 1, got 0"),
    ("generator.model", {"type": "StructuralGenerator", "dropout": "half"},
     "`generator.model`: StructuralGenerator: dropout must be in"),
    ("generator.loss", {"types": [{"type": "MMDLoss", "bandwidths": []}], "coef": [1]},
     r"`generator.loss.types\[0\]`: MMDLoss: bandwidths must be"),
    ("generator.loss", {"types": [{"type": "MMDLoss"}, {"type": "PairwiseRelationLoss",
                                                        "gamma": -1}], "coef": [1, 1]},
     r"`generator.loss.types\[1\]`: PairwiseRelationLoss: gamma must be a finite number > 0"),
    ("generator.loss", {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]},
     r"`generator.loss.types\[0\]`: CrossEntropyLoss is a loss on logits; name one on what"),
    ("classifier.loss", {"types": [{"type": "MMDLoss"}], "coef": [1]},
     r"`classifier.loss.types\[0\]`: MMDLoss is a loss on what the generator makes"),
    ("generator.loss", {"types": [{"type": "MMDLoss"}], "coef": ["a"]},
     "`generator.loss` must hold numbers as `coef`"),
    ("classifier.loss", {"types": [{"type": "CrossEntropyLoss", "weight": "heavy"}], "coef": [1]},
     r"`classifier.loss.types\[0\]`: could not make CrossEntropyLoss"),
    ("classifier.unseen_share", 7, "unseen_share: 7` must be 'auto' or less than 1"),
    ("classifier.unseen_share", True, "unseen_share: True` must be 'auto' or a valid number"),
    ("classifier.class_balance", "foo", "must be 'balanced', 'sqrt' or 'frequency'"),
    ("classifier.calibration", True, "calibration: True` must be a valid number or 'auto'"),
    ("classifier.calibration", float("nan"), "calibration: nan` must be a finite number"),
    ("classifier.num_generated", "64", "num_generated: 64` must be a valid integer"),
    ("test_config", {"scales": []}, "`test_config.scales: .*` must be numbers from 0.1 to 10"),
    ("test_config", {"scales": 1000.0}, "`test_config.scales: 1000.0` must be numbers from"),
    ("test_config", {"scales": [1, 1e-9]}, "`test_config.scales: .*` must be numbers from"),
    ("test_config", {"crop_size": [32]}, "`test_config.crop_size: .*` must be two whole numbers"),
    ("test_config", {"is_slide": True, "crop_size": [8, 8], "stride": [8, 9]},
     "`test_config.stride: .*` must not be larger than"),
    ("do_eval", "yes", "`do_eval: yes` must be true or false"),
    ("segmentor_weights", 5, "`segmentor_weights: 5` must be a path"),
    ("segmentor_weights", "a\0b", "`segmentor_weights: .*` holds a zero byte"),
    ("num_workers", 4 * 10**9, "num_workers: 4000000000` must be less than or equal to 1024"),
    ("classifier.num_generated", 4 * 10**9, "num_generated: 4000000000` must be less than"),
    ("generator.num_samples", 4 * 10**9, "num_samples: 4000000000` must be less than"),
    ("lr_scheduler.end_lr", -1, "lr_scheduler.end_lr: -1` must be a number from 0"),
    ("train_dataset.separator", 5, "`train_dataset.separator: 5` must be text"),
    ("train_dataset.separator", "", "`train_dataset.separator: ` must be text"),
    ("train_dataset.dataset_root", [1], r"`train_dataset.dataset_root: \[1\]` must be a path"),
    ("val_dataset.ignore_index", "abc", "`val_dataset.ignore_index: abc` must be a valid integer"),
    ("val_dataset.num_classes", "5", "`val_dataset.num_classes: 5` must be a valid integer"),
    ("val_dataset.transforms", {"type": "Resize"}, "`val_dataset.transforms: .*` must be a valid"),
])
def test_what_no_stage_could_use_is_refused_when_it_is_read(load, key, value, message):
    refuses(load, f"tiny.yml: .*{message}", changes={key: value})


@pytest.mark.parametrize("transform, message", [
    ({"type": "Normalize", "mean": 5}, "could not make Normalize"),
    ({"type": "Normalize", "mean": [1, 2]}, "Normalize fails on an image of .* pixels and 3"),
    ({"type": "Normalize", "mean": ["a", "b", "c"]}, "Normalize fails"),
    ({"type": "RandomHorizontalFlip", "prob": "often"}, "RandomHorizontalFlip fails"),
    ({"type": "RandomDistort", "brightness_range": None}, "RandomDistort fails"),  # half the time
    ({"type": "Resize", "target_size": [0, 0]}, "Resize fails"),
    ({"type": "Resize", "target_size": [-4, 4]}, "Resize fails"),
    ({"type": "Resize", "target_size": [10**6, 10**6]}, "makes images of more than"),
    ({"type": "ResizeByShort", "short_size": 10**6}, "makes images of more than"),
    ({"type": "ResizeByShort", "short_size": [10**6, 20, 20]}, "makes images of more than"),
    ({"type": "ResizeStepScaling", "max_scale_factor": 1e9}, "must be at most 100"),
    ({"type": "RandomPaddingCrop", "crop_size": [4, "a"]}, "RandomPaddingCrop fails"),
    ({"type": "RandomPaddingCrop", "crop_size": [0, 0]}, "makes an image without a pixel"),
])
@pytest.mark.parametrize("key", ["train_dataset.transforms", "val_dataset.transforms",
                                 "zero_shot.features.transforms"])
def test_transforms_are_tried_on_an_image(load, key, transform, message):
    refuses(load, rf"tiny.yml: .*`{key}\[1\].*{message}",
            changes={key: [{"type": "RandomBlur"}, transform]})


def test_sizes_to_choose_from_are_not_sides_of_one_image(load):
    sizes = list(range(320, 1400, 64))
    load({"train_dataset.transforms": [{"type": "ResizeByShort", "short_size": sizes}]})


@pytest.mark.parametrize("key", ["train_dataset.dataset_root", "val_dataset.val_path"])
def test_paths_at_which_opencv_crashes_are_refused(load, key):
    refuses(load, f"`{key}: .*` is not UTF-8, at which OpenCV crashes", changes={key: "a\udcff"})
    load({key: "\u732b \U0001f431"})


def test_the_size_of_a_model_in_a_schedule_is_no_model(load):
    noam = {"type": "NoamDecay", "d_model": 64, "warmup_steps": 4, "learning_rate": 1.0}
    assert load({"lr_scheduler": noam}).settings.lr_scheduler == noam


def test_what_was_made_once_is_not_made_for_the_next_config(load, monkeypatch):
    """But with other arguments, and again as long as it fails."""
    made = []
    make = components.UserErrorBuilder.build_component
    monkeypatch.setattr(components.UserErrorBuilder, "build_component",
                        lambda self, content: made.append(content["type"]) or make(self, content))

    def changes(**loss):
        made.clear()
        return {"generator.model.hidden_dim": 9,  # as in no other test
                "generator.loss": {"types": [loss], "coef": [1.0]}}

    load(changes(type="PairwiseRelationLoss", gamma=0.75))
    assert {"StructuralGenerator", "PairwiseRelationLoss"} <= set(made)
    load(changes(type="PairwiseRelationLoss", gamma=0.75))
    assert made == []
    load(changes(type="PairwiseRelationLoss", gamma=0.625))
    assert made == ["PairwiseRelationLoss"]
    for _ in range(2):
        refuses(load, "MMDLoss: bandwidths must be",
                changes=changes(type="MMDLoss", bandwidths="wide"))
        assert made == ["MMDLoss"]


def test_transforms_of_grey_images(load):
    grey = {"train_dataset.img_channels": 1, "val_dataset.img_channels": 1}
    refuses(load, r"train_dataset.transforms\[0\]`: Normalize fails on .* 1 channel", changes=grey)
    mean = [{"type": "Normalize", "mean": [0.5], "std": [0.5]}]
    load({**grey, "train_dataset.transforms": mean, "val_dataset.transforms": mean})


def test_every_transform_of_paddleseg_stands_the_trial(load):
    more = {"GenerateInstanceTargets": {"num_classes": 5}, "Padding": {"target_size": [40, 40]},
            "ResizeByLong": {"long_size": 20}, "ResizeByShort": {"short_size": 20},
            "ResizeShortSide": {"short_side": 20}}
    names = [name for name, kind in manager.TRANSFORMS.components_dict.items()
             if kind.__module__.startswith(("paddleseg", "paddle_csrl")) and name != "Compose"]
    assert len(names) > 20
    load({"train_dataset.transforms": [{"type": name, **more.get(name, {})} for name in names]})


def dotted_keys(kind, prefix):
    """All keys of the schema below a section, sections themselves included."""
    for name, field in kind.model_fields.items():
        yield f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, schema.Keys):
            yield from dotted_keys(field.annotation, f"{prefix}{name}.")


KEYS = [*dotted_keys(schema.Settings, ""), *schema.SECTIONS, *(
    key for name, kind in schema.SECTIONS.items() for key in dotted_keys(kind, f"{name}."))]


@pytest.mark.parametrize("value", [
    None, True, -1, 2.5, float("nan"), 10**30, "x", "1e-3", [], [None], {}, {1: 2}, {"type": 5}],
    ids=str)
def test_whatever_stands_at_whatever_key_is_read_or_refused_by_its_name(content, value):
    refused = 0
    for key in KEYS:
        whole = copy.deepcopy(content)
        set_key(whole, key, value)
        try:
            read_settings(whole, "tiny.yml")
        except UserError as error:
            refused += 1
            assert str(error).startswith("tiny.yml: ") and key.split(".")[-1] in str(error)
    assert len(KEYS) > 70 and refused > 20


def test_relations_that_no_generator_learns_are_refused(load):
    refuses(load, "`generator.relation: edges` compares relations that MLPGenerator does not",
            changes={"generator.model": {"type": "MLPGenerator"}, "generator.relation": "edges"})


def test_a_misspelt_key_is_told_rather_than_what_it_leaves_missing(load):
    refuses(load, "unknown key `itres`; did you mean `iters`", changes={"iters": ..., "itres": 4})


def test_reading_a_config_leaves_paddles_state_alone(load):
    paddle.seed(3)
    expected = paddle.rand([2]).numpy()
    name = paddle.nn.Linear(1, 1).weight.name
    paddle.seed(3)
    load()
    assert (paddle.rand([2]).numpy() == expected).all()
    number = int(name.split("_")[1].split(".")[0])
    assert paddle.nn.Linear(1, 1).weight.name == f"linear_{number + 1}.w_0"


@pytest.mark.parametrize("key, nearest", [
    ("batchsize", "batch_size"),
    ("zeroshot", "zero_shot"),
    ("zero_shot.unsen", "zero_shot.unseen|unseen"),
    ("zero_shot.embeddings.normalise", "normalize"),
    ("zero_shot.features.samples_per_clas", "samples_per_class"),
    ("generator.num_sample", "num_samples"),
    ("generator.model.noise_dims", "noise_dim"),
    ("classifier.unseen_shares", "unseen_share"),
    ("classifier.class_balanced", "class_balance"),
    ("test_config.aug_evals", "aug_eval"),
    ("model.aspp_ratio", "aspp_ratios"),
    ("model.backbone.widths", "width"),
])
def test_a_misspelt_key_is_named_with_the_nearest_known_one(load, key, nearest):
    refuses(load, f"tiny.yml: unknown key `{key}`; did you mean `({nearest})`", changes={key: 1})


@pytest.mark.parametrize("key, value, message", [
    ("zero_shot.qqq", 1, "`zero_shot.qqq`; known: cache_dir, class_names, classifier_layer, emb"),
    ("val_dataset.transforms", [{"type": "Normalize", "means": [0.5]}],
     r"`val_dataset.transforms\[0\].means`; did you mean `mean`"),
    ("loss.types", [{"type": "CrossEntropyLoss", "wait": 1}], r"`loss.types\[0\].wait`; "),
])
def test_other_unknown_keys(load, key, value, message):
    refuses(load, f"unknown key {message}", changes={key: value})


@pytest.mark.parametrize("key", [
    "train_dataset", "val_dataset", "model", "loss", "optimizer", "lr_scheduler", "iters",
    "batch_size", "zero_shot.unseen", "generator.model", "generator.loss", "generator.iters",
    "generator.num_samples", "generator.optimizer", "classifier.lr_scheduler",
    "classifier.batch_size", "zero_shot", "generator", "classifier"])
def test_a_missing_key_is_named(load, key):
    refuses(load, f"tiny.yml: `{key}` is missing", changes={key: ...})


@pytest.mark.parametrize("key", ["zero_shot", "generator", "classifier", "train_dataset",
                                 "val_dataset", "model", "loss", "optimizer"])
@pytest.mark.parametrize("value", [None, 5, "text", ["list"]])
def test_a_section_or_component_must_hold_pairs(load, key, value):
    refuses(load, f"`{key}` must hold `key: value` pairs", changes={key: value})


@pytest.mark.parametrize("key, value, message", [
    ("model.type", "DeepLabV3Plus", "`model.type: DeepLabV3Plus` .*did you mean DeepLabV3P"),
    ("model.backbone.type", "CSRLResNet5", "`model.backbone.type: .*did you mean CSRLResNet50"),
    ("generator.model.type", "StructuralGen", "`generator.model.type: .*StructuralGenerator"),
    ("loss.types", [{"type": "Xyzzy9"}], r"`loss.types\[0\].type: Xyzzy9` is no registered"),
    ("optimizer.type", "Adamm", "`optimizer.type: Adamm` .*did you mean Adam"),
    ("val_dataset.type", "PascalVoc", "`val_dataset.type: PascalVoc` .*did you mean PascalVOC"),
    ("model.type", ["DeepLabV3P"], "`model.type: .* is no registered model"),
    ("model.type", None, "`model.type: None` is no registered model"),
    ("model.type", "MMDLoss", "`model.type: MMDLoss` is no registered model"),
    ("lr_scheduler.type", "PolyDecay", "`lr_scheduler.type: PolyDecay` is no registered schedule; "
                                       "did you mean PolynomialDecay"),
    ("optimizer", {"weight_decay": 1}, "`optimizer` has no `type`, the name of the optimizer"),
    ("model.backbone", None, "`model.backbone` must hold `key: value` pairs, the `type` of the "
                             "backbone and its arguments, got null"),
    ("train_dataset", {"mode": "train"}, "`train_dataset` has no `type`, the name of the data set"),
    ("train_dataset.transforms", [5], r"`train_dataset.transforms\[0\]` must hold `key: value`"),
    ("generator.model", {"noise_dim": 4}, "`generator.model` has no `type`, the name of the model"),
    ("loss.types", [{}], r"`loss.types\[0\]` has no `type`, the name of the loss"),
    ("classifier.loss.types", [{"type": "Adam"}],
     r"`classifier.loss.types\[0\].type: Adam` is no registered loss"),
])
def test_an_unknown_component_is_named_with_the_nearest(load, key, value, message):
    refuses(load, message, changes={key: value})


@pytest.mark.parametrize("text", ["1e-4", "5E3", "1e5"])
def test_a_number_that_yaml_takes_for_text_is_refused(load, text):
    refuses(load, f"`optimizer.weight_decay: {text}` is text to YAML; write a dot",
            changes={"optimizer.weight_decay": text})


def test_a_class_may_be_called_like_such_a_number(load):
    """Also where a count is text, that is told by its type."""
    names = ["background", "1e3", "on", "no", "null"]
    section = load(changes={"zero_shot.unseen": ["1e3"], "zero_shot.class_names": names,
                            "zero_shot.embeddings": {"words": {"1e3": "thousand"}}}
                   ).settings.zero_shot
    assert (section.unseen, section.class_names) == (["1e3"], names)
    refuses(load, "`zero_shot.features.samples_per_class: 1e3` must be a valid integer",
            changes={"zero_shot.features.samples_per_class": "1e3"})


@pytest.mark.parametrize("key", [
    "iters", "batch_size", "generator.iters", "generator.num_samples", "classifier.iters",
    "classifier.batch_size", "classifier.num_generated", "zero_shot.features.samples_per_class",
    "save_interval", "log_iters", "generator.log_iters", "classifier.save_interval"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True, None])
def test_counts_must_be_positive_integers(load, key, value):
    refuses(load, f"`{key}: {value}` must be (a valid integer|greater than or equal to 1)",
            changes={key: value})


@pytest.mark.parametrize("key", ["seed", "num_workers", "generator.relation_warmup",
                                 "classifier.seed"])
@pytest.mark.parametrize("value", [-1, 2.5, "many", None])
def test_some_counts_may_be_zero_but_no_less(load, key, value):
    assert load({key: 0})
    refuses(load, f"`{key}: {value}` must be (a valid integer|greater than or equal to 0)",
            changes={key: value})


@pytest.mark.parametrize("loss", [
    {}, {"types": []}, {"types": [], "coef": []}, {"coef": [1]}, {"types": 5, "coef": [1]},
    {"types": [], "coef": [1]}, {"types": [{"type": "CrossEntropyLoss"}] * 2, "coef": [1] * 3}])
def test_the_loss_needs_as_many_types_as_coefficients(load, loss):
    for section in ("", "generator.", "classifier."):
        refuses(load, f"`{section}loss` must hold two lists of one length, `types` and `coef`",
                changes={f"{section}loss": loss})


@pytest.mark.parametrize("item, match", [
    ("iters", "--opts iters: write key=value"),
    ("iters=1=2", "--opts iters=1=2: write key=value"),
    ("", "--opts : write key=value"),
    ("itters=3", "unknown key `itters`; did you mean `iters`"),
    ("unseen=cow", "unknown key `unseen`; did you mean `zero_shot.unseen`"),
    ("num_generated=8", "unknown key `num_generated`; did you mean `classifier.num_generated`"),
    ("zero_shot.unsen=cow", "unknown key `zero_shot.unsen`; did you mean `unseen`"),
    ("no_such.key=3", "unknown key `no_such`"),
    ("iters.deep=3", "iters.deep"),
    ("zero_shot.unseen.deep=3", "zero_shot.unseen.deep"),
    ("=3", "unknown key ``"),
    ("iters=many", "`iters: many` must be a valid integer"),
])
def test_opts_that_fit_nowhere_are_refused(load, item, match):
    refuses(load, match, opts=[item])


@pytest.mark.parametrize("item, key, value", [
    ("iters=9", "iters", 9),
    ("zero_shot.unseen=cow,car", "zero_shot.unseen", "cow,car"),
    ("zero_shot.unseen=['cow','car']", "zero_shot.unseen", ["cow", "car"]),
    ("optimizer.weight_decay=1e-4", "optimizer.weight_decay", 1e-4),
    ("optimizer.weight_decay=1e-4x", "optimizer.weight_decay", "1e-4x"),  # text, not a number
    ("zero_shot.features.normalize=false", "zero_shot.features.normalize", False),
    ("zero_shot.features.normalize=True", "zero_shot.features.normalize", True),
    ("zero_shot.class_names=null", "zero_shot.class_names", None),
    ("test_config.scales=(0.5, 1.0)", "test_config.scales", [0.5, 1.0]),  # as YAML can hold it
])
def test_opts_set_values(load, item, key, value):
    found = load(opts=[item]).dic
    for part in key.split("."):
        found = found[part]
    assert found == value and type(found) is type(value)


def test_opts_are_applied_in_their_order_also_where_one_is_given_twice(load):
    first, section, again = ("model.backbone.width=2", "model.backbone={'type': 'CSRLTinyNet'}",
                             "model.backbone.width=6")
    assert load(opts=[first, section]).dic["model"]["backbone"] == {"type": "CSRLTinyNet"}
    assert load(opts=[first, section, again]).dic["model"]["backbone"]["width"] == 6


@pytest.mark.parametrize("test_config", [..., None])
def test_overrides_come_last_and_none_leaves_the_key(load, content, test_config):
    changes = {} if test_config is ... else {"test_config": test_config}
    config = load(changes, opts=["iters=9", "seed=4"], overrides={
        "iters": 11, "seed": None, "generator.lr_scheduler.learning_rate": 0.5,
        "test_config.aug_eval": True})
    assert config.iters == 11 and config.settings.seed == 4
    assert config.dic["generator"]["lr_scheduler"]["learning_rate"] == 0.5
    assert config.test_config == {"aug_eval": True}
    refuses(load, "unknown key `iterss`", overrides={"iterss": 3})


def test_a_setting_does_not_reach_the_other_uses_of_a_yaml_anchor(tmp_path, content):
    shared = {"type": "PolynomialDecay", "learning_rate": 0.5, "end_lr": 0.0, "power": 0.9}
    whole = {**content, "lr_scheduler": shared,
             "classifier": {**content["classifier"], "lr_scheduler": shared}}
    path = write_config(tmp_path / "anchored.yml", whole)
    assert "&id" in (tmp_path / "anchored.yml").read_text()
    dic = ZeroShotConfig(path, opts=["lr_scheduler.learning_rate=0.25"]).dic
    assert dic["lr_scheduler"]["learning_rate"] == 0.25
    assert dic["classifier"]["lr_scheduler"]["learning_rate"] == 0.5


def test_a_wrapped_dataset_is_taken_apart(load, content):
    wrapped = {name: {"type": "ZeroShotDataset", "dataset": content[name], "unseen": ["dog"],
                      "policy": "drop"} for name in ("train_dataset", "val_dataset")}
    plain = load({"zero_shot.unseen": ["dog"], "zero_shot.policy": "drop"}).dic
    assert load({**wrapped, "zero_shot.unseen": ..., "zero_shot.policy": ...}).dic == plain
    assert load({**wrapped, "zero_shot.unseen": ["dog"], "zero_shot.policy": "drop"}).dic == plain


def test_a_wrapped_dataset_that_contradicts_the_section_is_refused(load, content):
    wrapped = {"type": "ZeroShotDataset", "dataset": content["train_dataset"], "unseen": ["dog"]}
    refuses(load, r"`train_dataset.unseen: \['dog'\]` contradicts `zero_shot.unseen: \['cow'\]`",
            changes={"train_dataset": wrapped})


def test_a_wrapper_without_a_dataset_is_refused(load):
    refuses(load, "train_dataset", changes={"train_dataset": {"type": "ZeroShotDataset",
                                                              "unseen": ["cow"]}})


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yml").write_text(text, encoding="utf-8")
    return str(folder / "child.yml")


@pytest.mark.parametrize("base, child, expected", [
    # Key by key,
    ("a: {x: 1, y: 2}\nb: [1, 2]\nc: 3", "_base_: base.yml\na: {y: 5, z: 6}\nb: [9]",
     {"a": {"x": 1, "y": 5, "z": 6}, "b": [9], "c": 3}),
    # a section afresh,
    ("a: {x: 1, y: 2}", "_base_: base.yml\na: {_inherited_: false, z: 6}", {"a": {"z": 6}}),
    ("b: 1", "_base_: base.yml\na: {_inherited_: false, z: 6}", {"a": {"z": 6}, "b": 1}),
    # a section in the place of none,
    ("a: null\nb: 3\nc: text", "_base_: base.yml\na: {z: 6}\nb: {z: 7}\nc: {z: 8}",
     {"a": {"z": 6}, "b": {"z": 7}, "c": {"z": 8}}),
    # and of several bases the first one.
    ("a: 1\nb: 1", "_base_: [base.yml, other.yml]\nb: 3", {"a": 1, "b": 3, "c": 2}),
])
def test_a_child_overrides_its_base(tmp_path, base, child, expected):
    content = load_yaml(write(tmp_path, base=base, other="a: 2\nc: 2", child=child))
    assert merge(content, {}) == expected


def test_bases_may_have_bases_in_other_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", middle="_base_: ../root.yml\nb: 2")
    path = write(tmp_path, root="a: 1\nb: 1\nc: 1", child="_base_: deep/middle.yml\nc: 3")
    assert load_yaml(path) == {"a": 1, "b": 2, "c": 3}


def test_a_file_is_read_as_it_stands_into_a_content_of_the_callers_own(tmp_path):
    path = write(tmp_path, child="a: {b: [1]}")
    load_yaml(path)["a"]["b"].append(2)
    assert load_yaml(path) == {"a": {"b": [1]}}
    write(tmp_path, child="a: {b: [3]}")
    assert load_yaml(path) == {"a": {"b": [3]}}


NO_PAIRS, MALFORMED = "child.yml holds no `key: value` pairs", "child.yml is not well-formed YAML"


@pytest.mark.parametrize("text, match", [
    *((f"_base_: {base}\na: 1", "child.yml: `_base_: .*` must name")
      for base in ("5", "[1]", "{a: b}", "null")),
    ("_base_: absent.yml\na: 1", "absent.yml.*child.yml"),
    ("_base_: other.yml", "child.yml.* is its own `_base_`"),
    *((text, NO_PAIRS) for text in ("", "# only a comment", "- a\n- b", "text", "5")),
    *((text, MALFORMED) for text in ("a: [1, 2", "a: 1\n  b: 2", "a: 'open", "\tb: 1",
                                     "a: *nothing", b"\xff\xfe\x00\x80 a: 1")),
])
def test_a_file_that_is_no_config_is_refused(tmp_path, text, match):
    path = write(tmp_path, child="", other="_base_: child.yml")
    (tmp_path / "child.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
    refuses(ZeroShotConfig, match, path=path)


@pytest.mark.parametrize("name, match", [
    ("absent.yml", "no config at .*absent.yml; give a YAML file"), ("", "no config at"),
    ("config.json", "config.json must end in .yml or .yaml")])
def test_a_place_of_no_config_is_named(tmp_path, name, match):
    (tmp_path / "config.json").write_text("{}")
    refuses(ZeroShotConfig, match, path=str(tmp_path / name))


def test_python_objects_are_not_made_from_yaml(tmp_path):
    mark = tmp_path / "mark"
    path = write(tmp_path, child=f"a: !!python/object/apply:os.mkdir ['{mark}']")
    with pytest.raises(UserError, match="child.yml is not well-formed YAML.*python/object"):
        ZeroShotConfig(path)
    assert not mark.exists()


def test_names_of_classes_may_come_as_one_text(load):
    from paddle_csrl.builder import ZeroShotBuilder

    for text, ids in {"cow": [3], "cow,cat": [1, 3], "car, dog": [2, 4]}.items():
        builder = ZeroShotBuilder(load(opts=[f"zero_shot.unseen={text}"]))
        assert builder.classes.unseen_ids.tolist() == ids


def test_an_option_reaches_into_a_list(load):
    loss = load(opts=["generator.loss.types.0.squared=false"]).dic["generator"]["loss"]
    assert loss["types"] == [{"type": "MMDLoss", "squared": False}]
    for place in ("1", "-1", "first"):
        refuses(load, "cannot be set, for `types` holds",
                opts=[f"generator.loss.types.{place}.squared=false"])
