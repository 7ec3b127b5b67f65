"""The built-in class names, the files a user writes, and names back to ids."""

import pytest

from paddle_csrl.datasets.class_names import (
    CLASS_NAMES,
    class_names_for,
    read_class_names,
    resolve_classes,
)
from paddle_csrl.errors import UserError

NAMES = ["background", "cow", "pottedplant", "tvmonitor", "traffic light"]

# The 59 classes among the 459 of Pascal-Context, whose order PaddleSeg's label ids follow.
CONTEXT_IDS_OF_459 = {
    "aeroplane": 2, "bag": 9, "bed": 18, "bicycle": 23, "boat": 31, "book": 33, "car": 59,
    "cat": 65, "cow": 98, "dog": 113, "fence": 144, "horse": 207, "motorbike": 258,
    "person": 284, "sofa": 368, "table": 397, "track": 415, "train": 416, "tree": 420,
    "tvmonitor": 427, "wall": 440, "wood": 458}


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


@pytest.mark.parametrize("group, size, known", [
    ("voc", 21, {0: "background", 1: "aeroplane", 10: "cow", 14: "motorbike", 16: "pottedplant",
                 20: "tvmonitor"}),
    ("context", 60, {0: "background", 1: "aeroplane", 20: "cow", 34: "motorbike", 59: "wood"}),
    ("cityscapes", 19, {0: "road", 6: "traffic light", 13: "car", 18: "bicycle"}),
    ("ade20k", 150, {0: "wall", 12: "person", 20: "car", 89: "television", 126: "animal",
                     149: "flag"}),
    ("coco_stuff", 171, {0: "person", 10: "fire hydrant", 11: "stop sign", 79: "toothbrush",
                         80: "banner", 145: "sky-other", 170: "wood"}),
])
def test_built_in_names_by_label_id(group, size, known):
    names = CLASS_NAMES[group]
    assert len(names) == size == len(set(names))
    assert {class_id: names[class_id] for class_id in known} == known


def test_context_is_in_the_order_of_the_459_ids():
    names = [name for name in CLASS_NAMES["context"] if name in CONTEXT_IDS_OF_459]
    assert names == sorted(CONTEXT_IDS_OF_459, key=CONTEXT_IDS_OF_459.get)


@pytest.mark.parametrize("dataset_type, first, size", [
    ("PascalVOC", "background", 21), ("PascalContext", "background", 60),
    ("Cityscapes", "road", 19), ("ADE20K", "wall", 150), ("CocoStuff", "person", 171),
    ("COCOStuff", "person", 171)])
def test_names_of_paddleseg_data_sets(dataset_type, first, size):
    names = class_names_for(dataset_type)
    assert (names[0], len(names)) == (first, size)


def test_unknown_data_set_type():
    with pytest.raises(UserError, match="type: Dataset.*`class_names`.*voc"):
        class_names_for("Dataset")


def test_names_handed_out_are_copies():
    class_names_for("PascalVOC")[0] = "changed"
    read_class_names("voc")[0] = "changed"
    assert CLASS_NAMES["voc"][0] == "background"


def test_file_with_comments_blank_lines_and_byte_order_mark(tmp_path):
    path = write(tmp_path / "classes.txt", "# mine\nroad\n\n traffic light # red\r\nmañana\n",
                 "utf-8-sig")
    assert read_class_names(path) == ["road", "traffic light", "mañana"]


def test_letters_that_look_alike_are_alike(tmp_path):
    """A Mac writes the names of files, and lists of them, with accents as letters of their own."""
    path = write(tmp_path / "classes.txt", "ciel\nve\u0301lo\n\u30ab\u3099\n")
    assert resolve_classes(read_class_names(path), "v\u00e9lo,\u30ac") == [1, 2]
    assert resolve_classes(NAMES, "\uff43\uff4f\uff57") == [1]  # in full width
    with pytest.raises(UserError, match="line 2: .* already stands in line 1"):
        read_class_names(write(tmp_path / "classes.txt", "v\u00e9lo\nve\u0301lo\n"))


def test_list_and_built_in_set():
    assert read_class_names(["a", "b "]) == ["a", "b"]
    assert read_class_names("cityscapes") == CLASS_NAMES["cityscapes"]


@pytest.mark.parametrize("source, message", [
    ("nothing/here.txt", "nothing/here.txt.*neither a file"),
    ([], "must be a list"),
    ({"a": 1}, "must be a list"),
    (["a", True], "True as class 1"),
    (["a", " "], "' ' as class 1"),
    (["sky", "road", "sky"], "sky twice, as class 0 and 2"),
])
def test_bad_source(source, message):
    with pytest.raises(UserError, match=message):
        read_class_names(source)


@pytest.mark.parametrize("text, encoding, message", [
    ("# nothing\n", "utf-8", "classes.txt names no class"),
    ("mañana\n", "latin-1", "not UTF-8"),
    ("sky\n# x\ntraffic light\nTraffic-Light\n", "utf-8",
     "line 4: Traffic-Light already stands in line 3")])
def test_bad_file(tmp_path, text, encoding, message):
    with pytest.raises(UserError, match=message):
        read_class_names(write(tmp_path / "classes.txt", text, encoding))


@pytest.mark.parametrize("text, kind, first", [
    ("0\tbackground\n1\tcandy\n2\tegg tart\n", "an id", "0\tbackground"),
    ("Pixel Value, Class\n0, background\n1, cow\n", "an id", "0, background"),
    ("1: building\n2: road (paved)\n", "an id", "1: building"),
    ("1 cow 255 0 0\n2 car 0 255 0\n", "an id", "1 cow 255 0 0"),
    ("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncow:64,128,0::\n", "a colour",
     "background:0,0,0::"),
    ("name,r,g,b\nAnimal,64,128,64\nArchway,192,0,128\n", "a colour", "Animal,64,128,64"),
    ("64 128 64\tAnimal\n192 0 128\tArchway\n", "a colour", "64 128 64\tAnimal")],
    ids=["FoodSeg103", "Roboflow", "from one on", "EISeg", "CVAT", "csv", "CamVid"])
def test_lists_with_more_than_names_are_refused(tmp_path, text, kind, first):
    path = write(tmp_path / "classes.txt", text, "utf-8")
    with pytest.raises(UserError) as error:
        read_class_names(path)
    assert f"{path} has {kind} beside each name, as in {first!r}; write the names alone" \
        in str(error.value)


@pytest.mark.parametrize("names", [
    ["1 euro", "2 euro", "5 euro"], ["0", "1", "2"], ["background", "level 1", "level 2"],
    ["1 person"], ["a, b, c", "7 up", "road"]])
def test_names_with_numbers_are_names(tmp_path, names):
    assert read_class_names(write(tmp_path / "c.txt", "\n".join(names), "utf-8")) == names


@pytest.mark.parametrize("wanted, ids", [
    (["cow"], [1]),
    ("traffic_light, COW", [4, 1]),
    (["Potted-Plant"], [2]),
    (["potted plant"], [2]),
    (["tv"], [3]),
    (["tv-monitor"], [3]),
    (["Television"], [3]),
])
def test_resolving_in_the_order_asked_for(wanted, ids):
    assert resolve_classes(NAMES, wanted) == ids


@pytest.mark.parametrize("names, wanted, name", [
    (CLASS_NAMES["voc"], "airplane", "aeroplane"),
    (CLASS_NAMES["voc"], "motorcycle", "motorbike"),
    (CLASS_NAMES["voc"], "couch", "sofa"),
    (CLASS_NAMES["coco_stuff"], "tvmonitor", "tv"),
    (CLASS_NAMES["coco_stuff"], "aeroplane", "airplane"),
    (CLASS_NAMES["ade20k"], "tv", "television"),
])
def test_aliases_work_both_ways(names, wanted, name):
    assert resolve_classes(names, [wanted]) == [names.index(name)]


def test_the_papers_splits_resolve():
    voc = "cow, motorbike, airplane, sofa, cat, tv, train, bottle, chair, potted-plant"
    ids = resolve_classes(CLASS_NAMES["voc"], voc)
    assert [CLASS_NAMES["voc"][i] for i in ids] == [
        "cow", "motorbike", "aeroplane", "sofa", "cat", "tvmonitor", "train", "bottle", "chair",
        "pottedplant"]
    context = "cow, motorbike, sofa, cat, boat, fence, bird, tvmonitor, keyboard, aeroplane"
    assert len(resolve_classes(CLASS_NAMES["context"], context)) == 10


def test_own_name_goes_before_an_alias_which_must_be_clear():
    assert resolve_classes(["television", "tv", "x"], ["tv"]) == [1]
    with pytest.raises(UserError, match="tvmonitor.*did you mean television or tv"):
        resolve_classes(["television", "tv", "x"], ["tvmonitor"])


@pytest.mark.parametrize("wanted, message", [
    (["cwo"], "holds cwo, which is no class.*did you mean cow"),
    (["zzzzzz"], "zzzzzz.*known: background, cow"),
    (["cow", "Cow"], r"cow twice \(cow, Cow\)"),
    (["tv", "tvmonitor"], "tvmonitor twice"),
    (["cow", "background"], "background is always a seen class"),
    ([], "names no class"),
    ("", "no class name"),
    (["cow", False], "False, which is no class name"),
    ("cow,,tv", "'', which is no class name"),
    ({"cow": 1}, "must be a list"),
])
def test_bad_unseen(wanted, message):
    with pytest.raises(UserError, match=message) as caught:
        resolve_classes(NAMES, wanted)
    assert "\n" not in str(caught.value)


def test_class_zero_that_is_no_background_may_be_unseen_but_not_all():
    assert resolve_classes(["road", "car"], ["road"]) == [0]
    with pytest.raises(UserError, match="background is always a seen class"):
        resolve_classes(["no-data", "_background_", "road"], ["background"])

    with pytest.raises(UserError, match="all 2 classes"):
        resolve_classes(["cat", "dog"], ["dog", "cat"])


@pytest.mark.parametrize("names, match", [
    (["a" * 10**6, "b"], r"class 0: a name of 1000000 letters \(aaaaaaaaaaaaaaaaaaaa...\)"),
    (list(map(str, range(65536))), "has 65536 names; labels tell at most 65535")])
def test_absurd_names_are_refused(tmp_path, names, match):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(names))
    with pytest.raises(UserError, match=match):
        read_class_names(names)
    with pytest.raises(UserError, match=match.replace("class 0", "names.txt, line 1")):
        read_class_names(str(path))
    for place in (["a" * 200, "b"], list(map(str, range(65535)))):
        assert read_class_names(place) == place


def test_a_file_of_names_has_a_size(tmp_path):
    path = tmp_path / "names.txt"
    with open(path, "wb") as file:
        file.truncate(10**11)
    with pytest.raises(UserError, match="names.txt has 100000000000 bytes, which no list"):
        read_class_names(str(path))


def test_a_name_to_be_found_has_a_length():
    with pytest.raises(UserError, match="`unseen`: a name of 1000000 letters"):
        resolve_classes(["cat", "dog"], ["a" * 10**6])
