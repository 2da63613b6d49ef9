"""A DICOM header without what names a patient: a new data set, into which only what a rule lets through is written.

The table of PS3.15 Annex E says what happens to the attributes it names. What it doesn't name isn't taken as harmless,
since a text may hold anything: numbers are kept, coded strings and codes where the standard knows them; all other text
goes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from medmoe.data.curation.deidentify_key import Key, moved, moved_time
from medmoe.data.curation.deidentify_rules import (
    METHODS,
    Options,
    action,
    codes,
    further,
    known_code,
    makers,
    patterns,
)  # fmt: skip
from medmoe.data.curation.deidentify_text import Known, clean_text

_NUMBERS = ("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "OF", "OD", "OL", "OV", "AT", "US or SS")
_LUTS = (*range(0x00281201, 0x00281205), *range(0x00281211, 0x00281214), *range(0x00281221, 0x00281225), 0x00283006)
_BULK = (*_LUTS, 0x54000110, 0x54000112, 0x5400100A, 0x54001010, *range(0x00660023, 0x0066002A))
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010, 0x7FE00001, 0x7FE00002)  # the pixels' own step writes them
_OURS = (0x00120062, 0x00120063, 0x00120064, 0x00280303, 0x00080005)
_DUMMIES = {
    "DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000Y", "DS": "0", "IS": "0", "PN": "REMOVED",
    "LO": "REMOVED", "SH": "REMOVED", "ST": "REMOVED", "LT": "REMOVED", "UT": "REMOVED", "UC": "REMOVED",
    "CS": "REMOVED", "AE": "REMOVED", "UR": "urn:removed",
}  # fmt: skip
_IDENTIFYING = re.compile(r"(ID|IDs|Number|Numbers|Name|Address|Department|Institution|Location|Organization)$")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass
class Header:
    """What became of a header.

    Args:
        dataset: The new data set, without pixels.
        changes: (path of tags, keyword, action) → how often; no values.
        patient: The patient's pseudonym.
        known: The identifiers that the old header holds, to find them in text.
    """

    dataset: Any
    patient: str
    known: Known
    changes: Counter[tuple[str, str, str]] = field(default_factory=Counter)


def clean_header(old: Any, key: Key, options: Options) -> Header:
    """Make the header that may be passed on.

    Args:
        old: A `pydicom.Dataset`, read with its values' checks off; it isn't changed.
        key: Where pseudonyms, UIDs and offsets come from.
        options: Of the profile.

    Returns:
        The new header and what was done. Elements of pixels aren't in it.
    """
    from pydicom import Dataset

    identity = patient_of(old)
    header = Header(Dataset(), key.patient(identity), known_in(old))
    offset = key.offset(identity) if options.dates == "shift" else None
    step = _Step(key, options, header, offset)
    step.fill(header.dataset, old, "")
    step.mark(header.dataset)
    return header


def patient_of(old: Any) -> str:
    """Give what tells a patient from others in a file: the id, else name and birth date, else the study."""
    name, born = _plain(old, "PatientName"), _plain(old, "PatientBirthDate")
    study = _plain(old, "StudyInstanceUID") or _plain(old, "SOPInstanceUID")
    return _plain(old, "PatientID") or (f"name {name} {born}" if name else f"study {study}")


def known_in(old: Any) -> Known:
    """Collect names and ids of a header, its sequences included, so that they can be found in its texts."""
    names: set[str] = set()
    ids: set[str] = set()
    for element in _walk(old):
        values = [str(value) for value in _values(element.value)]
        if element.VR == "PN":
            names.update(values)
        elif element.tag in _table_tags() and element.VR in ("LO", "SH", "ST", "LT", "UT", "AE", "UC"):
            if _IDENTIFYING.search(element.keyword):
                ids.update(values)
        elif element.tag == 0x00100030:
            ids.update(values)
    return Known.of(names=names, ids=ids)


@dataclass
class _Step:
    """One header's way through the rules."""

    key: Key
    options: Options
    header: Header
    offset: timedelta | None
    item: Any = None  # the data set that is gone through, in which a date finds its time

    def fill(self, new: Any, old: Any, path: str) -> None:
        """Write into a new data set what of an old one may be passed on."""
        code, outer, self.item = _code_of(old), self.item, old
        for tag in sorted(old.keys()):
            if (not path and tag in _PIXELS) or tag in _OURS or tag.elem == 0:
                continue
            where = f"{path}{tag.group:04X}{tag.elem:04X}"
            done = action(tag, self.options)
            element = None if tag.group % 2 else _element(old, tag)
            if element is None or tag.group < 8 or done == "X":
                self.note(where, element, "X")
                continue
            try:
                done, value = self.value(element, done, code, where)
            except (ValueError, TypeError, OverflowError, AttributeError):
                done, value = "X", None
            if done != "K":
                self.note(where, element, done)
            if done != "X":
                new.add(_made(tag, element.VR, value))
        self.item = outer

    def note(self, where: str, element: Any, done: str) -> None:
        """Count a change; a private element's name may be a value, so it has none."""
        self.header.changes[where, element.keyword if element is not None else "", done] += 1

    def value(self, element: Any, done: str | None, code: dict[str, str] | None, where: str) -> tuple[str, Any]:
        """Give what an element's value becomes, and which action that was."""
        if element.tag in (0x00100010, 0x00100020):
            return "Z", self.header.patient
        if element.VR == "SQ":
            return self.items(element, done, where)
        if code is not None and element.keyword in code:
            fresh = code[element.keyword] if not code["private"] else self.private_code(element, code)
            return ("K" if fresh == str(element.value) else "C"), fresh
        if done is None:
            return self.unnamed(element)
        return getattr(self, f"do_{done.lower()}")(element)  # type: ignore[no-any-return]

    def items(self, element: Any, done: str | None, where: str) -> tuple[str, Any]:
        """Go through a sequence's items; Z leaves none."""
        from pydicom import Dataset

        if done == "Z":
            return "Z", []
        items = []
        for item in element.value:
            items.append(Dataset())
            self.fill(items[-1], item, f"{where}>")
        return "K", items

    def private_code(self, element: Any, code: dict[str, str]) -> str:
        """Replace a code that the standard doesn't know: the same one by the same one."""
        if element.keyword == "CodeMeaning":
            return "REMOVED"
        return "99REMOVED" if element.keyword == "CodingSchemeDesignator" else self.key.name("code", code["private"])

    def do_z(self, element: Any) -> tuple[str, Any]:
        return "Z", None

    def do_d(self, element: Any) -> tuple[str, Any]:
        if element.VR == "UI":
            return self.do_u(element)
        if element.VR in ("OB", "OW", "UN"):
            return "D", b"\0\0"
        return "D", _DUMMIES.get(element.VR, 0)

    def do_u(self, element: Any) -> tuple[str, Any]:
        return "U", [self.key.uid(str(value)) for value in _values(element.value)]

    def do_k(self, element: Any) -> tuple[str, Any]:
        if element.VR == "AS":
            return self.age(str(element.value))
        return "K", element.value

    def do_c(self, element: Any) -> tuple[str, Any]:
        if element.VR in ("DA", "DT", "TM"):
            return self.date(element)
        if element.keyword in patterns():
            return self.unnamed_text(element, [str(value) for value in _values(element.value)])
        return "C", [self.text(str(value)) for value in _values(element.value)]

    def text(self, value: str) -> str:
        return clean_text(value, self.header.known, days=self.offset.days if self.offset else None).text

    def age(self, value: str) -> tuple[str, Any]:
        """Keep an age, those over 89 years as 90 (as US law and common practice have it)."""
        found = re.fullmatch(r"(\d{3})([DWMY])", value.strip())
        if found is None:
            return "X", None
        old = found[2] == "Y" and int(found[1]) > 89
        return ("C", "090Y") if old else ("K", found[0])

    def date(self, element: Any) -> tuple[str, Any]:
        """Move dates and times by the patient's offset; without an offset all go."""
        if self.offset is None:
            return "X", None
        fresh = [self.one_date(str(value), element) for value in _values(element.value)]
        return ("X", None) if None in fresh else ("C", fresh)

    def one_date(self, value: str, element: Any) -> str | None:
        """Move a date, a time or both; a date together with the time that goes with it, if there is one."""
        offset = self.offset or timedelta()
        if element.VR == "TM":
            return moved_time(value, offset)
        if element.VR == "DA":
            time = _plain(self.item, element.keyword.replace("Date", "Time")) if "Date" in element.keyword else ""
            fresh = moved(value, time, offset) or moved(value, "", offset)
            return fresh[0] if fresh else None
        found = re.fullmatch(r"(\d{8})(\d{2,6}(?:\.\d{1,6})?)?([+-]\d{4})?", value.strip("\0 "))
        fresh = moved(found[1], found[2] or "", offset) if found else None
        return f"{fresh[0]}{fresh[1]}{found[3] or ''}" if fresh and found else None

    def unnamed(self, element: Any) -> tuple[str, Any]:
        """Judge an element that the table doesn't name by what it holds."""
        kind, value = element.VR, element.value
        if value is None or (isinstance(value, (str, bytes)) and not value):
            return "K", None
        if kind in _NUMBERS or ("US" in kind and not isinstance(value, bytes)):
            return "K", value
        if kind == "UI":
            fresh = self.do_u(element)[1]
            return ("K" if fresh == [str(old) for old in _values(value)] else "U"), fresh
        if kind in ("DA", "DT", "TM"):
            return self.date(element)
        if kind in ("OB", "OW", "US or OW", "US or SS or OW"):
            return ("K", value) if element.tag in _BULK else ("X", None)
        return self.unnamed_text(element, [str(old) for old in _values(value)])

    def unnamed_text(self, element: Any, values: list[str]) -> tuple[str, Any]:
        """Judge text that the table doesn't name; several values are judged one by one, to keep their places."""
        if element.keyword == "TextValue" and self.options.reports == "clean":
            return "C", [self.text(value) for value in values]
        if "descriptions" in self.options.keep and element.keyword in further("descriptions"):
            return "C", [self.text(value) for value in values]
        test = self.test(element)
        fresh = [value if test(value) else "" for value in values]
        if fresh == values:
            return "K", values
        return ("C", fresh) if any(fresh) else ("X", None)

    def test(self, element: Any) -> Callable[[str], bool]:
        """Give what a text must pass."""
        if element.VR in ("DS", "IS"):
            return lambda value: bool(_NUMBER.fullmatch(value.strip())) and not self.header.known.is_id(value)
        if "device" in self.options.keep and element.keyword in further("device"):
            return lambda value: self.text(value) == value
        if element.keyword in patterns():
            return lambda value: bool(patterns()[element.keyword].fullmatch(value.strip()))
        if element.VR == "CS":
            return lambda value: _made_of(value, codes(), digits=2)
        if "Manufacturer" in element.keyword and "Model" not in element.keyword and element.VR == "LO":
            return lambda value: _made_of(value.upper(), makers(), digits=0)
        return lambda value: False

    def mark(self, new: Any) -> None:
        """Say in the file what was done to it (PS3.15 E.1.1, PS3.3 C.7.1.1)."""
        from pydicom import Dataset

        new.PatientIdentityRemoved = "YES"
        new.DeidentificationMethod = "medmoe: DICOM PS3.15 Annex E, Basic Profile"
        items = []
        for name in ("profile", *self.options.columns):
            item = Dataset()
            item.CodeValue, item.CodeMeaning = METHODS[name]
            item.CodingSchemeDesignator = "DCM"
            items.append(item)
        new.DeidentificationMethodCodeSequence = items
        new.LongitudinalTemporalInformationModified = "REMOVED" if self.offset is None else "MODIFIED"
        new.SpecificCharacterSet = "ISO_IR 192"


def _made(tag: Any, kind: str, value: Any) -> Any:
    """Make a new element of plain values."""
    from pydicom import DataElement

    many = isinstance(value, list) and kind != "SQ"
    if many and len(value) == 1:
        value = value[0]
    elif many and kind in ("LT", "ST", "UT", "UR"):
        value = "\n".join(value)
    return DataElement(tag, kind, value)


def _code_of(item: Any) -> dict[str, str] | None:
    """Read an item that is a code; `private` is empty and the meaning the standard's where it has it."""
    scheme, value = _plain(item, "CodingSchemeDesignator"), _plain(item, "CodeValue")
    if not value:
        value = _plain(item, "LongCodeValue") or _plain(item, "URNCodeValue")
        return None if not value else {"CodeMeaning": "", "CodingSchemeDesignator": "", "private": f"{scheme} {value}"}
    meaning = known_code(scheme, value)
    private = f"{scheme} {value}" if meaning is None else ""
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning or "", "private": private}


def _made_of(value: str, words: Iterable[str], *, digits: int) -> bool:
    """Tell whether each word of a text is one of some, or a number of few digits."""
    found = [word for word in re.split(r"[\s_\\/,.&()+-]+", value.strip()) if word]
    return all(word in words or (word.isdigit() and len(word) <= digits) for word in found)


def _plain(item: Any, keyword: str) -> str:
    """Give an element's text without spaces around it; empty where it is absent or can't be read."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    tag = Tag(tag_for_keyword(keyword) or 0)
    element = _element(item, tag) if tag in item.keys() else None  # noqa: SIM118 - a data set's own `in` is slow
    return "" if element is None or element.value is None else str(element.value).strip("\0 ")


def _element(item: Any, tag: Any) -> Any:
    """Read an element; None where its bytes aren't what its kind says."""
    try:
        return item[tag]
    except Exception:  # pydicom converts on access, and whatever it meets, the element can't be passed on
        return None


def _values(value: Any) -> list[Any]:
    """Give an element's values as a list."""
    from pydicom.multival import MultiValue

    if value is None:
        return []
    return list(value) if isinstance(value, (MultiValue, list, tuple)) else [value]


def _walk(item: Any) -> Iterator[Any]:
    """Go through a data set's elements that can be read, those in sequences too, private ones not."""
    for tag in item.keys():  # noqa: SIM118 - a data set isn't a mapping
        element = None if tag.group % 2 else _element(item, tag)
        if element is None:
            continue
        if element.VR == "SQ":
            for inner in element.value:
                yield from _walk(inner)
        else:
            yield element


def _table_tags() -> Iterable[int]:
    from medmoe.data.curation.deidentify_rules import table

    return table()
