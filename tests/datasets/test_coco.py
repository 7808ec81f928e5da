"""Reading a data set in COCO layout."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from detrnb.datasets.annotations import fingerprint
from detrnb.datasets.coco import CocoDataset, SampleError, data_paths
from detrnb.datasets.collating import collate
from detrnb.datasets.transforms import EvalTransform, TrainTransform

AS_IT_IS = EvalTransform(size=None)
SIZES = {4: (40, 30), 9: (32, 50), 2: (24, 24)}  # image id -> width, height
BOXES = [  # image id, category id, bbox, iscrowd
    (4, 7, [10, 5, 20, 10], 0),
    (9, 2, [0, 0, 16, 25], 0),
    (4, 2, [30, 20, 50, 50], 0),  # reaches out of the image
    (4, 2, [1, 1, 9, 9], 1),
    (4, 5, [3, 3, 0, 4], 0),
]


@pytest.fixture
def root(tmp_path):
    """Three images: id 4 with boxes of all kinds, 9 with one, 2 with none."""
    images = tmp_path / "train2017"
    images.mkdir()
    (tmp_path / "annotations").mkdir()
    for number, (image_id, size) in enumerate(SIZES.items()):
        mode = ("RGB", "L", "P")[number]
        Image.new(mode, size, 100).save(images / f"{image_id}é.png")
    write(tmp_path, {})
    return tmp_path


def write(root, changes):
    content = {
        "images": [
            {"id": i, "file_name": f"{i}é.png", "width": w, "height": h}
            for i, (w, h) in SIZES.items()
        ],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "iscrowd": crowd}
            for n, (i, c, box, crowd) in enumerate(BOXES)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in (7, 2, 5)],
    }
    content = {k: v for k, v in (content | changes).items() if v is not None}
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


def read(root, transform=AS_IT_IS, **settings):
    return CocoDataset(*data_paths(root, "train2017"), transform, **settings)


def test_dataset_gives_normalised_boxes_and_sizes(root):
    dataset = read(root)
    assert dataset.image_ids.tolist() == [2, 4, 9]
    image, target = dataset[1]
    assert image.shape == (3, 30, 40) and image.dtype == torch.uint8
    expected = [[0.5, 10 / 30, 0.5, 10 / 30], [35 / 40, 25 / 30, 0.25, 10 / 30]]
    torch.testing.assert_close(target["boxes"], torch.tensor(expected))
    assert target["labels"].tolist() == [2, 0] and target["labels"].dtype == torch.int64
    assert (target["image_id"], target["orig_size"], target["size"]) == (4, (30, 40), (30, 40))


def test_dataset_keeps_images_without_boxes(root):
    image, target = read(root)[0]
    assert image.shape == (3, 24, 24)
    assert target["boxes"].shape == (0, 4) and target["boxes"].dtype == torch.float32
    assert target["labels"].shape == (0,) and target["labels"].dtype == torch.int64


def test_dataset_labels_are_contiguous_or_raw(root):
    dataset = read(root)
    assert dataset.category_ids == (2, 5, 7) and dataset.num_classes == 3
    assert dataset.class_names == ("class 2", "class 5", "class 7")
    raw = read(root, contiguous=False)
    assert raw.category_ids == tuple(range(8)) and raw.num_classes == 8
    assert raw.class_names[1:3] == ("N/A", "class 2")
    assert raw[1][1]["labels"].tolist() == [7, 2]
    labels = torch.tensor([2, 0])
    assert dataset.to_category_ids(labels).tolist() == [7, 2]
    # A model of all of COCO's ids sees categories that a file with some of them does not list.
    assert raw.to_category_ids(torch.tensor([90, 2])).tolist() == [90, 2]


def test_dataset_size_follows_the_transform(root):
    _, target = read(root, EvalTransform(size=60, max_size=1000))[1]
    assert (target["orig_size"], target["size"]) == ((30, 40), (60, 80))
    torch.testing.assert_close(target["boxes"][0], torch.tensor([0.5, 1 / 3, 0.5, 1 / 3]))


def test_augmentation_depends_on_seed_epoch_and_index_alone(root):
    transform = TrainTransform(tuple(range(20, 60)), None, crop=(10, 30), crop_sizes=(30, 40))

    def shapes(dataset, epoch, order):
        dataset.set_epoch(epoch)
        seen = {i: (dataset[i][1]["size"], dataset[i][1]["boxes"].tolist()) for i in order}
        return [seen[i] for i in (0, 1, 2)]

    first = shapes(read(root, transform), 3, (0, 1, 2))
    assert shapes(read(root, transform), 3, (2, 0, 1)) == first
    assert shapes(read(root, transform), 4, (0, 1, 2)) != first
    assert shapes(read(root, transform, seed=1), 3, (0, 1, 2)) != first


def test_workers_that_live_on_see_the_next_epoch(root):
    transform = TrainTransform(tuple(range(20, 60)), None, crop=None)
    dataset = read(root, transform)
    loader = DataLoader(
        dataset, num_workers=1, persistent_workers=True, collate_fn=collate, batch_size=3
    )
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        (_, _, targets) = next(iter(loader))
        assert [t["size"] for t in targets] == [dataset[i][1]["size"] for i in range(3)]


def test_collate_pads_bottom_right_and_masks_padding(root):
    dataset = read(root)
    images, padding_mask, targets = collate([dataset[1], dataset[2]])
    assert images.shape == (2, 3, 50, 40) and images.dtype == torch.uint8
    assert padding_mask.shape == (2, 50, 40) and padding_mask.dtype == torch.bool
    assert not padding_mask[0, :30, :40].any() and padding_mask[0, 30:].all()
    assert not padding_mask[1, :, :32].any() and padding_mask[1, :, 32:].all()
    assert (images[0, :, 30:] == 0).all() and torch.equal(images[0, :, :30], dataset[1][0])
    assert [t["image_id"] for t in targets] == [4, 9]
    assert collate([dataset[1], dataset[1]])[1] is None  # alike: nothing is padded


@pytest.mark.parametrize("key", ["images", "categories", "annotations"])
def test_annotations_without_list_are_refused(root, key):
    write(root, {key: None})
    with pytest.raises(ValueError, match=f"instances_train2017.json has no list '{key}'"):
        read(root)


def test_malformed_annotation_is_named(root):
    bad = {"id": 71, "image_id": 4, "category_id": 3, "bbox": [0, 0, 5, 5]}
    write(root, {"annotations": [bad]})
    with pytest.raises(
        ValueError,
        match=r"train2017.json: annotation of an unknown category \(1\): annotation 71 .* 3",
    ):
        read(root)
    write(root, {"annotations": [bad | {"category_id": 2, "bbox": [0, 0, 5]}]})
    with pytest.raises(ValueError, match=r"malformed annotation .*id 71\): bbox is \[0, 0, 5\]"):
        read(root, contiguous=False)


def test_annotations_that_are_no_json_or_missing_are_named(root):
    images, annotations = data_paths(root, "train2017")
    annotations.write_text('{"images": [')
    with pytest.raises(ValueError, match=r"instances_train2017.json is not a whole JSON object"):
        CocoDataset(images, annotations, AS_IT_IS)
    annotations.unlink()
    with pytest.raises(ValueError, match=r"annotation file .*train2017.json not found"):
        CocoDataset(images, annotations, AS_IT_IS)


def test_missing_and_broken_images_are_named(root):
    dataset = read(root)
    (root / "train2017" / "9é.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"image 9 of .*9é.png cannot be read"):
        dataset[2]
    (root / "train2017" / "9é.png").unlink()
    with pytest.raises(ValueError, match=r"image 9 of .*9é.png not found"):
        dataset[2]


def in_words(error: pytest.ExceptionInfo) -> str:
    """One sentence or two, without a traceback."""
    assert "Traceback" not in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def not_there(file):
    file.unlink()
    return r"not found\. Bring it, or take"


def under_another_name(file):
    file.rename(file.with_name("9É.PNG"))
    return r"is there as 9É\.PNG\. Write in file_name what is there"


def no_picture(file):
    file.write_bytes(b"no picture")
    return r"cannot be read \(not an image of a known format\)\. Bring it anew"


def half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return r"cannot be read \(.*\)\. Bring it anew"


def another_size(file):
    Image.new("RGB", (50, 32)).save(file)
    return r"is 50×32, recorded as 32×50\. Boxes are for one of the two"


def floating_point(file):
    Image.fromarray(np.zeros((50, 32), np.float32)).save(file, "TIFF")
    return r"holds floating-point numbers, .*\. Save it anew as RGB"


@pytest.mark.parametrize(
    "spoil", [not_there, under_another_name, no_picture, half, another_size, floating_point]
)
def test_an_image_that_cannot_be_had_is_one_sentence(root, spoil):
    problem = spoil(root / "train2017" / "9é.png")
    with pytest.raises(
        SampleError, match=rf"^image 9 of .*2017\.json: .*9é\.png {problem}"
    ) as error:
        read(root)[2]
    in_words(error)


def test_it_is_one_sentence_from_a_loaders_worker_too(root):
    """What torch does with an error in a worker; a worker itself may take seconds to end."""
    not_there(root / "train2017" / "9é.png")
    try:
        read(root)[2]
    except SampleError:
        carried = pickle.loads(
            pickle.dumps(ExceptionWrapper(where="in DataLoader worker process 0"))
        )
    assert "Traceback" in carried.exc_msg
    with pytest.raises(SampleError, match=r"^image 9 of .*9é\.png not found\.") as error:
        carried.reraise()
    in_words(error)
    again = pickle.loads(pickle.dumps(error.value))  # from process to process
    assert str(again) == str(error.value)


def test_an_image_too_oblong_to_be_resized_is_named(root):
    Image.new("RGB", (4000, 1)).save(root / "train2017" / "9é.png")
    images = [{"id": 9, "file_name": "9é.png", "width": 4000, "height": 1}]
    write(root, {"images": images, "annotations": []})
    with pytest.raises(SampleError, match=r"image 9 of .*9é\.png is 4000×1, too oblong") as error:
        read(root, EvalTransform())[0]
    in_words(error)


def test_an_image_is_turned_where_its_record_has_the_turned_sides(root):
    """Its box stays on what is annotated, and all that asks for its size gets the same."""
    upright = Image.new("RGB", (32, 50))
    upright.paste((255, 255, 255), (20, 5, 30, 25))
    exif = Image.Exif()
    exif[0x0112] = 6  # what was upright lies on its left side
    file = root / "train2017" / "9é.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(file, exif=exif)
    box = {"id": 1, "image_id": 9, "category_id": 2}
    write(root, {"annotations": [box | {"bbox": [20, 5, 10, 20]}]})
    pixels, target = read(root).original(2)
    assert pixels.shape == (50, 32, 3) and target["boxes"].tolist() == [[20, 5, 30, 25]]
    assert pixels[5:25, 20:30].min() == 255 and pixels.sum() == 255 * 3 * 200
    assert read(root)[2][1]["orig_size"] == (50, 32)
    record = {"id": 9, "file_name": "9é.png", "width": 50, "height": 32}
    write(root, {"images": [record], "annotations": [box | {"bbox": [5, 2, 20, 10]}]})
    pixels, target = read(root).original(0)
    assert pixels.shape == (32, 50, 3) and pixels[2:12, 5:25].min() == 255


def test_a_guess_is_said_once(root):
    for image_id, size in SIZES.items():
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.new("RGB", size).save(root / "train2017" / f"{image_id}é.png", exif=exif)
    dataset = read(root)
    with pytest.warns(
        UserWarning, match=r"image 2 of .* \(orientation 3\), taken as stored"
    ) as said:
        for _ in range(2):
            assert dataset[0][0].shape == (3, 24, 24) and dataset[1][0].shape == (3, 30, 40)
    assert len(said) == 1


def test_a_box_outside_an_image_without_a_size_on_record_is_an_error(root):
    images = [{"id": i, "file_name": f"{i}é.png"} for i in SIZES]
    write(root, {"images": images})
    assert len(read(root)[1][1]["boxes"]) == 2
    away = {"id": 1, "image_id": 4, "category_id": 2, "bbox": [41, 5, 10, 10]}
    write(root, {"images": images, "annotations": [away]})
    with pytest.raises(SampleError, match="is 40×30, and its box at x 41, y 5 is outside it"):
        read(root)[1]


def test_the_ground_truth_is_what_the_file_says_of_all_boxes(root):
    dataset = read(root)
    (root / "annotations" / "instances_train2017.json").unlink()  # it is read once
    truth = dataset.ground_truth
    columns = (truth.of_image, truth.of_category, truth.boxes_xywh, truth.crowd)
    assert [*zip(*(column.tolist() for column in columns), strict=True)] == BOXES
    assert truth.object_areas.tolist() == [w * h for *_, (_, _, w, h), _ in BOXES]
    sizes = map(tuple, truth.image_sizes.tolist())
    assert dict(zip(truth.image_ids.tolist(), sizes, strict=True)) == SIZES
    assert [i for i, _ in truth.categories] == [7, 2, 5]


def test_data_paths_lists_what_is_there(root):
    with pytest.raises(ValueError, match=r"val2017 not found; .* holds annotations, train2017"):
        data_paths(root, "val2017")
    (root / "val2017").mkdir()
    with pytest.raises(
        ValueError, match=r"instances_val2017.json not found; .*instances_train2017.json"
    ):
        data_paths(root, "val2017")
    with pytest.raises(ValueError, match=r"not found"):
        data_paths(root / "absent", "val2017")


def test_fingerprint_changes_with_the_annotations(root):
    annotations = data_paths(root, "train2017")[1]
    before = fingerprint(annotations)
    assert len(before) == 16 and before == fingerprint(annotations)
    annotations.write_text(annotations.read_text() + " ")
    assert fingerprint(annotations) != before


def test_dataset_holds_annotations_in_flat_arrays(root):
    held = {name: v for name, v in vars(read(root)).items() if isinstance(v, (list, dict))}
    assert held == {"classes": {0: (2, "class 2"), 1: (5, "class 5"), 2: (7, "class 7")}}
    assert sum(isinstance(v, np.ndarray) for v in vars(read(root)).values()) == 6
