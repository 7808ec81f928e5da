"""Annotation files are read element by element, wherever the window ends, into flat arrays."""

import json
import math
import tracemalloc

import numpy as np
import pytest

from detrnb.datasets import json_lists as reader
from detrnb.datasets.annotations import (
    category_difference,
    class_names,
    label_classes,
    read_annotations,
)
from detrnb.datasets.fields import NO_ID
from detrnb.datasets.json_lists import json_lists

CONTENT = {
    "info": {"images": [1, 2], "year": 2017},
    "annotations": [
        {
            "id": 7,
            "image_id": 3,
            "category_id": 2,
            "bbox": [1, 2.5, 3e0, 4],
            "iscrowd": 1,
            "area": 11.5,
        },
        {"image_id": 3.0, "category_id": 2, "bbox": [0, 0, 9, 9], "segmentation": [[1, 2, 3]]},
    ],
    "skipped": [[], {}, "]", -1.25, True, None],
    "version": 12,
    "empty": [],
    "categories": [{"id": 2, "name": "gülle \U0001f41f"}],
    "images": [{"id": 3, "file_name": 'a "é".png', "width": 20, "height": 10.0}],
}

SOUND = {"image_id": 3, "category_id": 2, "bbox": [0, 0, 9, 9]}


def lists_of(path) -> dict[str, list]:
    return {name: list(elements) for name, elements in json_lists(path)}


@pytest.mark.parametrize("window", [1, 2, 7, 64, 1 << 22])
@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"ensure_ascii": False, "separators": ",:"}])
def test_lists_are_those_of_json_wherever_the_window_ends(tmp_path, monkeypatch, window, form):
    monkeypatch.setattr(reader, "WINDOW", window)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT, **form) + "\n", encoding="utf-8")
    expected = {name: value for name, value in CONTENT.items() if isinstance(value, list)}
    assert lists_of(path) == expected
    assert [name for name, _ in json_lists(path)] == list(expected)  # elements left alone


@pytest.mark.parametrize("window", [3, 1 << 22])
def test_a_file_cut_off_anywhere_is_refused_with_its_name(tmp_path, monkeypatch, window):
    monkeypatch.setattr(reader, "WINDOW", window)
    path, text = tmp_path / "a.json", json.dumps(CONTENT)
    for end in range(len(text)):
        path.write_text(text[:end])
        with pytest.raises(ValueError, match=r"a\.json is not a whole JSON object"):
            lists_of(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [{"id": 1}, {"id"', r"cut off at character 28, in element 1 of .*'images'"),
        ('{"a": 1, "images": [{"id": x}]}', r"has 'Expecting value' at character 27, in element 0"),
        ('{"images": [1, 2}', r"has '}' in place of ',' or '\]' at character 16, in element 1"),
        ('{"images": []} {', "goes on after its end at character 15"),
        ("[1, 2]", r"has '\[' in place of '\{' at character 0"),
        ("", "cut off at character 0"),
    ],
)
def test_what_is_not_json_is_named_with_its_place(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        lists_of(path)


def test_other_encodings_are_refused_and_a_byte_order_mark_is_not(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT), encoding="utf-8-sig")
    assert lists_of(path)["images"] == CONTENT["images"]
    path.write_text(json.dumps(CONTENT), encoding="utf-16")
    with pytest.raises(ValueError, match=r"a\.json is not UTF-8 text"):
        lists_of(path)


def test_a_large_file_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "WINDOW", 1 << 16)
    path = tmp_path / "a.json"
    box = {"image_id": 3, "category_id": 2, "bbox": [0, 0, 9, 9], "segmentation": [[1.5] * 90]}
    path.write_text(json.dumps(CONTENT | {"annotations": [box] * 5000}))
    assert path.stat().st_size > 2_500_000
    tracemalloc.start()
    annotations = read_annotations(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(annotations.boxes_xywh) == 5000
    assert peak < 1_500_000


def write(path, **changes):
    path.write_text(json.dumps(CONTENT | changes))
    return path


def test_annotations_hold_what_the_file_says(tmp_path):
    found = read_annotations(write(tmp_path / "a.json"))
    assert found.categories == ((2, "gülle \U0001f41f"),)
    assert found.image_ids.tolist() == [3]
    assert [name.decode() for name in found.file_names] == ['a "é".png']
    assert found.image_sizes.tolist() == [[20, 10]]
    assert found.ids.tolist() == [7, NO_ID] and found.of_image.tolist() == [3, 3]
    assert found.of_category.tolist() == [2, 2] and found.crowd.tolist() == [True, False]
    assert found.boxes_xywh.tolist() == [[1, 2.5, 3, 4], [0, 0, 9, 9]]
    assert found.areas[0] == 11.5 and math.isnan(found.areas[1])
    assert [examples.count for examples in found.malformed.values()] == [0, 0, 0]
    assert sum(isinstance(value, np.ndarray) for value in vars(found).values()) == 9


@pytest.mark.parametrize(
    ("name", "record", "problem"),
    [
        ("images", {"id": "3a", "file_name": "b.png"}, r"\(id '3a'\): id is '3a'; .*whole number"),
        ("images", {"id": True, "file_name": "b.png"}, "id is True; expected a whole number"),
        ("images", {"id": 1e300, "file_name": "b.png"}, "id is 1e.300; expected a whole number"),
        ("images", {"id": 2**63, "file_name": "b.png"}, "id is 9223372036854775808; expected a"),
        ("images", {"id": 4, "file_name": "b.png\0"}, "which no file can have"),
        ("images", {"id": 4, "file_name": "é" * 3000}, "which no file can have"),
        ("images", {"id": 4}, "file_name is None; expected text"),
        ("images", {"id": 4, "file_name": "\ud800"}, "surrogates not allowed"),
        ("images", ["b.png"], r"it is \['b.png'\], not an object"),
        ("categories", {"id": 2.5, "name": "b"}, "id is 2.5"),
        ("categories", {"id": 2, "name": 7}, "name is 7"),
        ("annotations", {"image_id": 3, "category_id": 2}, "bbox is None; expected four finite"),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": [0, 0, 9]}, "bbox is"),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": [0, 0, 9, "9 px"]}, "bbox is"),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": [[0, 0, 9, 9]]}, "bbox is"),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": [0, 0, 9, "nan"]}, "bbox is"),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": [0, 0, 9, "1_0"]}, "bbox is"),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": {"x": 1}}, "bbox is"),
        (
            "annotations",
            {"image_id": 3, "category_id": 2, "segmentation": [[0, 0, 9, 0, 9, 9]]},
            r"bbox is None; .* \(the bounds of its segmentation\)",
        ),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": [0, 0, 9, True]}, "bbox is"),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": [0, math.nan, 9, 9]}, "bbox is"),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": [0, 0, math.inf, 9]}, "bbox is"),
        ("annotations", {"image_id": 3, "category_id": 2, "bbox": [0, 0, 10**400, 9]}, "bbox is"),
        ("annotations", {"category_id": 2, "bbox": [0, 0, 9, 9]}, "image_id is None"),
        ("annotations", {"image_id": 3, "bbox": [0, 0, 9, 9]}, "category_id is None"),
        ("annotations", SOUND | {"image_id": "a.png"}, "image_id is 'a.png'; expected a whole"),
        ("annotations", SOUND | {"category_id": "cat"}, "category_id is 'cat'; expected a whole"),
        ("annotations", SOUND | {"iscrowd": "no"}, "iscrowd is 'no'; expected 0 or 1"),
        ("annotations", SOUND | {"iscrowd": 2}, "iscrowd is 2; expected 0 or 1"),
        ("annotations", SOUND | {"iscrowd": [0]}, r"iscrowd is \[0\]; expected 0 or 1"),
        ("annotations", SOUND | {"area": "large"}, "area is 'large'; expected a number"),
        ("annotations", SOUND | {"area": -1}, "area is -1; expected a number from 0 up"),
        ("annotations", SOUND | {"area": math.nan}, "area is nan; expected a number"),
    ],
)
def test_malformed_records_are_told_apart_and_the_rest_is_read(tmp_path, name, record, problem):
    sound = CONTENT[name]
    found = read_annotations(write(tmp_path / "a.json", **{name: [record, *sound]}))
    assert {n: examples.count for n, examples in found.malformed.items() if examples.count} == {
        name: 1
    }
    (example,) = found.malformed[name].first
    assert example.startswith("element 0 (id ")
    with pytest.raises(ValueError, match=problem):
        raise ValueError(example)
    rows = {
        "images": found.file_names,
        "categories": found.categories,
        "annotations": found.boxes_xywh,
    }
    assert len(rows[name]) == len(sound)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"iscrowd": crowd}, {"crowd": [is_crowd]})
        for is_crowd, forms in (
            (False, (0, 0.0, False, None, "0", "false", "False", " 0 ")),
            (True, (1, 1.0, True, "1", "true", "TRUE")),
        )
        for crowd in forms
    ]
    + [
        ({"image_id": i, "category_id": c}, {"of_image": [3], "of_category": [2]})
        for i, c in (("3", "2"), (3.0, 2.0), ("3.0", "+2"), ("0000000003", " 2 "))
    ]
    + [
        ({"bbox": ["0", 0.5, "9.25", "1e1"]}, {"boxes_xywh": [[0, 0.5, 9.25, 10]]}),
        ({"area": "40.5"}, {"areas": [40.5]}),
    ]
    + [
        ({"id": i}, {"ids": [number]})
        for i, number in (
            (7, 7),
            ("a1b2-uuid", NO_ID),
            (None, NO_ID),
            (1.5, NO_ID),
            (2**63, NO_ID),
            ([1], NO_ID),
            (True, NO_ID),
        )
    ],
)
def test_fields_are_read_as_they_are_meant(tmp_path, changes, expected):
    found = read_annotations(write(tmp_path / "a.json", annotations=[SOUND | changes]))
    assert found.malformed["annotations"].count == 0
    assert {name: getattr(found, name).tolist() for name in expected} == expected


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [("20", "10.0", [20, 10]), (20, 10, [20, 10])]
    + [
        (width, 10, None)
        for width in (None, "a", 0, -1, True, math.nan, math.inf, 10**400, [20], "20px")
    ],
)
def test_sizes_are_read_as_they_are_meant_or_not_known(tmp_path, width, height, size):
    image = {"id": 3, "file_name": "a.png", "width": width, "height": height}
    found = read_annotations(write(tmp_path / "a.json", images=[image]))
    assert found.malformed["images"].count == 0
    (read,) = found.image_sizes.tolist()
    assert read == size if size else all(math.isnan(side) for side in read)


def test_whole_numbers_as_long_as_they_come_are_kept_to_the_digit(tmp_path):
    ids = [2**53 + 1, 2**63 - 1]
    images = [{"id": i, "file_name": f"{i}.png"} for i in ids]
    boxes = [SOUND | {"image_id": str(i)} for i in ids]
    found = read_annotations(write(tmp_path / "a.json", images=images, annotations=boxes))
    assert found.image_ids.tolist() == found.of_image.tolist() == ids


def test_a_category_listed_again_is_one(tmp_path):
    cat, dog = {"id": "1", "name": "cat", "supercategory": "x"}, {"id": 2, "name": "dog"}
    found = read_annotations(
        write(tmp_path / "a.json", categories=[cat, dog, {"id": 1, "name": "cat"}, cat])
    )
    assert found.categories == ((1, "cat"), (2, "dog"))
    assert (found.merged.count, found.merged.first) == (2, ["category 1 (cat)"])


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ('[{"id": 1, "id": 2}]', "has two values of the key 'id' .* in element 0 of .*'images'"),
        (f'[{{"id": {"9" * 5000}}}]', "has Exceeds the limit .* in element 0 of its list 'images'"),
        ("[" * 200_000, "too many lists or objects inside each other"),
    ],
)
def test_what_python_would_choke_on_or_pass_over_is_refused(tmp_path, records, problem):
    path = tmp_path / "a.json"
    path.write_text(f'{{"images": {records}}}')
    with pytest.raises(ValueError, match=rf"a\.json is not a whole JSON object: it .*{problem}"):
        lists_of(path)


def test_a_key_that_says_the_same_twice_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"images": [{"id": 1, "id": 1}]}')
    assert lists_of(path) == {"images": [{"id": 1}]}


def test_an_area_is_the_files_or_else_its_boxs(tmp_path):
    boxes = [SOUND | {"area": 40.5}, SOUND | {"bbox": [-1, 2, 50, 3.5], "area": None}, SOUND]
    found = read_annotations(write(tmp_path / "a.json", annotations=boxes))
    assert found.object_areas.tolist() == [40.5, 175, 81]


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_a_missing_list_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=rf"a\.json has no list '{name}'; expected a COCO"):
        read_annotations(write(tmp_path / "a.json", **{name: None}))


def test_a_list_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT)[:-1] + ', "images": []}')
    with pytest.raises(ValueError, match="has two lists 'images'"):
        read_annotations(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"annotation file .*none\.json not found"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_annotations(tmp_path)


def test_a_file_is_read_anew_once_its_content_changed(tmp_path):
    path = write(tmp_path / "a.json")
    assert read_annotations(path) is read_annotations(path)
    write(path, categories=[{"id": 2, "name": "gulle"}])
    assert read_annotations(path).categories == ((2, "gulle"),)
    with pytest.raises(ValueError, match="read-only"):
        read_annotations(path).boxes_xywh[0] = 0


def test_labels_stand_for_categories_in_order_or_for_themselves():
    categories = [(7, "c"), (2, "a"), (5, "b")]
    assert label_classes(categories, contiguous=True) == {0: (2, "a"), 1: (5, "b"), 2: (7, "c")}
    own = label_classes(categories, contiguous=False)
    assert own == {2: (2, "a"), 5: (5, "b"), 7: (7, "c")}
    assert class_names(own, 9) == ("N/A", "N/A", "a", "N/A", "N/A", "b", "N/A", "c", "N/A")
    for i in (-1, 10**12):
        with pytest.raises(ValueError, match=f"category id {i} cannot be a label"):
            label_classes([*categories, (i, "d")], contiguous=False)
        assert len(label_classes([*categories, (i, "d")], contiguous=True)) == 4


def test_a_difference_of_categories_is_named():
    assert category_difference([(1, "cat"), (2, "dog")], [(2, "dog"), (1, "cat")]) == ""
    said = category_difference([(1, "cat"), (2, "dog")], [(1, "cat"), (3, "dog")])
    assert said == "only here: 2 'dog'; only there: 3 'dog'"
    many = category_difference([], [(i, "x") for i in range(8)])
    assert many == "only there: 0 'x', 1 'x', 2 'x', 3 'x', 4 'x' and 3 more"
