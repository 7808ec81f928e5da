"""What one record of an annotation file says, field by field.

Exporters write numbers as text, `3.0` for 3, `null` for what they leave out; that is read as it is
meant. What could be meant in two ways is a ValueError.
"""

import math
import re
from contextlib import suppress

NO_ID = -(2**63)  # stands for an annotation id that is no whole number, or not there

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"([+-]?[0-9]{1,19})(\.0*)?")
_EXACT = 2**53  # floating-point numbers beyond it stand for several whole ones
_FURTHEST = 1e30  # pixels: no box is there, and its sides can still be multiplied
_LONGEST_NAME = 4096  # bytes that a path may have
_CROWD = {"0": False, "1": True, "false": False, "true": True}

Fields = tuple[tuple[int, ...], tuple[float, ...], str]  # whole numbers, real ones, name


def image(record: dict) -> Fields:
    """Id; width and height, NaN where the record does not tell; file name."""
    try:
        size = _number(record.get("width")), _number(record.get("height"))
    except ValueError:
        size = 0.0, 0.0
    if min(size) <= 0:
        size = math.nan, math.nan
    name = _text(record, "file_name")
    if "\0" in name or len(name.encode()) > _LONGEST_NAME:
        raise ValueError(f"file_name is {name!r:.40}, which no file can have")
    return (_whole(record, "id"),), size, name


def category(record: dict) -> Fields:
    """Id; nothing; name."""
    return (_whole(record, "id"),), (), _text(record, "name")


def annotation(record: dict) -> Fields:
    """Id (NO_ID unless a whole number), image id, category id, crowd; box and area; no name.

    The area is NaN where the record leaves it out.
    """
    measures = *_box(record), _area(record)
    ids = _any_id(record), _whole(record, "image_id"), _whole(record, "category_id")
    return (*ids, _crowd(record)), measures, ""


def _number(value: object) -> float:
    number = math.nan
    if type(value) in (int, float) or isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        with suppress(OverflowError):  # a whole number of hundreds of digits
            number = float(value)
    if math.isfinite(number):
        return number
    raise ValueError(f"{value!r:.40} is no finite number")


def _whole(record: dict, key: str) -> int:
    value = record.get(key)
    number = None
    if type(value) is int:
        number = value
    elif type(value) is float and value.is_integer() and abs(value) <= _EXACT:
        number = int(value)
    elif isinstance(value, str) and (match := _WHOLE.fullmatch(value.strip())):
        number = int(match[1])
    if number is None or abs(number) >= 2**63:
        raise ValueError(f"{key} is {value!r:.40}; expected a whole number")
    return number


def _any_id(record: dict) -> int:
    try:
        return _whole(record, "id")
    except ValueError:
        return NO_ID


def _text(record: dict, key: str) -> str:
    value = record.get(key)
    if isinstance(value, str) and value:
        value.encode()  # half a surrogate pair is a ValueError
        return value
    raise ValueError(f"{key} is {value!r:.40}; expected text")


def _box(record: dict) -> tuple[float, ...]:
    box = record.get("bbox")
    try:
        numbers = tuple(map(_number, box)) if isinstance(box, list) else ()
    except ValueError:
        numbers = ()
    if len(numbers) != 4 or max(map(abs, numbers)) >= _FURTHEST:
        outline = " (the bounds of its segmentation)" if record.get("segmentation") else ""
        raise ValueError(
            f"bbox is {box!r:.60}; expected four finite numbers [x, y, width, height]{outline}"
        )
    return numbers


def _area(record: dict) -> float:
    value = record.get("area")
    if value is None:
        return math.nan
    try:
        area = _number(value)
    except ValueError:
        area = -1.0
    if area < 0:
        raise ValueError(f"area is {value!r:.40}; expected a number from 0 up, or none")
    return area


def _crowd(record: dict) -> bool:
    value = record.get("iscrowd")
    if value is None:
        return False
    if isinstance(value, str) and value.strip().lower() in _CROWD:
        return _CROWD[value.strip().lower()]
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise ValueError(f"iscrowd is {value!r:.40}; expected 0 or 1")
