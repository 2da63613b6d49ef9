"""The bytes of a shard's files as text, JSON objects and arrays, each looked at before it is believed."""

from __future__ import annotations

import io
import json
import math
import tokenize
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medmoe.data.images import MAX_PIXELS, flatten_grey, stretch
from medmoe.errors import DataError

MAX_TEXT = 1 << 24  # bytes of a report or of what is known of a sample; more is no report
# What numpy raises where a header, which is a Python literal, can't be parsed.
_HEADER_ERRORS = (
    ValueError, EOFError, OSError, TypeError, RecursionError, MemoryError, SyntaxError, tokenize.TokenError, KeyError,
    OverflowError,
)  # fmt: skip
_AGAIN = "write it again with numpy.save"


def text_of(data: bytes, where: str) -> str:
    """Read a member as text, blanks around it cut off.

    Raises:
        DataError: If it isn't UTF-8, or too long to be of one sample.
    """
    if len(data) > MAX_TEXT:
        what = f"{len(data):,} bytes of text; allowed: {MAX_TEXT:,}"
        raise DataError(what, where=where, remedy="check what wrote it")
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=where, remedy="write it again") from error


def object_of(text: str, where: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        DataError: If it isn't one, or is nested too deeply.
    """
    remedy = "write one JSON object"
    try:
        found = json.loads(text)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()  # it may name half of a character
    except RecursionError as error:
        raise DataError("JSON that is nested too deeply", where=where, remedy=remedy) from error
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})", where=where, remedy=remedy) from error
    if not isinstance(found, dict):
        raise DataError(f"a JSON {type(found).__name__}, not an object", where=where, remedy=remedy)
    return found


def array_of(data: bytes, where: str) -> NDArray[Any]:
    """Read a `.npy` of pixels, [H, W] or [H, W, 3]; nothing is unpickled, or allocated that isn't there.

    Raises:
        DataError: If it is something else.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version[0]}.{version[1]} of the format")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = header(file)
        if dtype.hasobject:
            raise ValueError("Python objects")
    except _HEADER_ERRORS as error:
        what = f"not an array of pixels ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        raise DataError(what, where=where, remedy=_AGAIN) from error
    whole = all(type(side) is int and side >= 0 for side in shape)
    if dtype.kind not in "uif" or not whole or not (len(shape) == 2 or shape[2:] == (3,)):
        what = f"an array of shape {shape} of {dtype}; allowed: numbers, (H, W) or (H, W, 3)"
        raise DataError(what, where=where, remedy=_AGAIN)
    count, begin = math.prod(shape), file.tell()
    if not count:
        raise DataError(f"an array without pixels, of shape {shape}", where=where, remedy="take the sample out")
    if shape[0] * shape[1] > MAX_PIXELS:
        remedy = "cut it into tiles or shrink it first"
        raise DataError(f"the array claims more than {MAX_PIXELS:,} pixels", where=where, remedy=remedy)
    if count * dtype.itemsize > len(data) - begin:
        what = f"not an array of pixels ({len(data) - begin:,} bytes, {count * dtype.itemsize:,} claimed)"
        raise DataError(what, where=where, remedy=_AGAIN)
    values = np.frombuffer(data, dtype, count, begin).reshape(shape, order="F" if by_column else "C")
    return values.astype(dtype.newbyteorder("="), order="C")  # a copy that may be written to


def image_of(array: NDArray[Any], where: str, *, stretched: bool) -> NDArray[Any]:
    """Give an array as an image: stretched to [0, 1] by its own ends, or as it is where that was done before.

    Raises:
        DataError: If its values aren't finite, or are to be grey levels already and aren't.
    """
    if not stretched:
        return stretch(flatten_grey(array), where=where)
    if array.dtype == np.uint8:
        return array
    if array.dtype != np.float32 or not (float(array.min()) >= 0 and float(array.max()) <= 1):
        what = f"grey levels of {array.dtype} from {array.min()} to {array.max()}; allowed: float32 from 0 to 1"
        raise DataError(what, where=where, remedy="write it again, or without 'stretched' in its json")
    return array
