"""Report text without whom it is about: names, dates, times, ids, contacts and places by rule, as typed placeholders.

Rules find what has a form (a date), a title before it (Dr. X), a label before it (MRN: X) or is known from the study's header.
A name that stands alone and that the header doesn't have is not found. Eponyms (Hodgkin lymphoma, Graves disease) and
measurements (12/5 mm, C5-6, T1/T2) are left.
"""

# ruff: noqa: E501 - patterns of one rule stay on one line
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property, partial

from medmoe.data.curation.deidentify_rules import codes

_SHIFT = 0xE000  # into Unicode's area of private use
_OURS = re.compile("[\ue000-\uf8ff]")
_COMMON = frozenset(
    ["the", "and", "for", "with", "from", "test", "anonymous", "unknown", "patient", "none", "null", "name", "not", "new", "old", "male", "female", "doctor", "hospital", "clinic", "center", "centre", "medical", "health", "imaging", "university", "department", "radiology", "general", "institute", "dept", "city", "street", "road", "number", "anonymized", "removed", "phantom"]
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """Names and ids that a study's header or a manifest's row holds.

    Args:
        names: Words of names, lower case, that aren't words of other use.
        phrases: Whole names and ids, lower case, their words apart by single spaces.
        ids: Ids without anything between their letters and digits, upper case.
    """

    names: frozenset[str] = frozenset()
    phrases: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *, names: Iterable[str] = (), ids: Iterable[str] = ()) -> Known:
        """Make it of values as they stand in a header (`DOE^JANE`, `MRN 0012345`)."""
        words: set[str] = set()
        phrases: set[str] = set()
        numbers: set[str] = set()
        for value in names:
            parts = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", value.lower())
            words.update(
                part for part in parts if len(part) > 2 and part not in _COMMON and part.upper() not in codes()
            )
            if len(parts) > 1:
                phrases |= {" ".join(parts), " ".join(parts[::-1]), " ".join([*parts[1:], parts[0]])}
        for value in ids:
            plain = re.sub(r"[\W_]", "", value).upper()
            if len(plain) > 3 and any(letter.isdigit() for letter in plain):
                numbers.add(plain)
            parts = re.findall(r"\w+", value.lower())
            if len(parts) > 1 and not set(parts) <= _COMMON:
                phrases.add(" ".join(parts))
        return cls(frozenset(words), frozenset(phrases), frozenset(numbers))

    def is_id(self, value: str) -> bool:
        """Tell whether a text is one of the ids."""
        return re.sub(r"[\W_]", "", value).upper() in self.ids

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """What finds them in text; None where there are none."""
        between = r"[\s,.^_/-]*"
        found = [between.join(map(re.escape, id_)) for id_ in self.ids]
        found += [r"[\s,.^_-]+".join(map(re.escape, phrase.split(" "))) for phrase in self.phrases]
        found += [rf"{re.escape(name)}(?:['’]s)?" for name in self.names]
        found.sort(key=len, reverse=True)
        return re.compile(rf"(?<![^\W_])(?:{'|'.join(found)})(?![^\W_])", re.IGNORECASE) if found else None


@dataclass
class Cleaned:
    """A text without what its rules found.

    Args:
        text: The text, with placeholders.
        found: Kind → how often.
    """

    text: str
    found: Counter[str] = field(default_factory=Counter)


def clean_text(text: str, known: Known | None = None, *, days: int | None = None) -> Cleaned:
    """Take names, dates, ids and contacts out of a text.

    Args:
        text: A report, or a part of one.
        known: What the study's header says of the patient and others.
        days: Move whole dates by so many days (written as YYYY-MM-DD) instead of taking them out. Of dates as 3/4/2019 the
            month is taken to come first.

    Returns:
        The text with [NAME], [DATE], [TIME], [AGE], [ID], [PHONE], [EMAIL], [URL], [ADDRESS], [PLACE].
    """
    cleaned = Cleaned(_OURS.sub("?", text))
    for kind, pattern, put in _FIRST_RULES:
        _replace(cleaned, pattern, kind, put)
    if known is not None and known.pattern is not None:
        _replace(cleaned, known.pattern, "ID", lambda found: _known_kind(found[0]))
    for kind, pattern, put in _RULES:
        _replace(cleaned, pattern, kind, put)
    for pattern, order in _DATES:
        _replace(cleaned, pattern, "DATE", partial(_date, order=order, days=days))
    for kind, pattern, put in _LATE_RULES:
        _replace(cleaned, pattern, kind, put)
    _replace(cleaned, _SEVERAL, "NAME", lambda found: "[NAME]")
    cleaned.text = _OURS.sub(lambda found: chr(ord(found[0]) - _SHIFT), cleaned.text)
    return cleaned


def _shielded(text: str) -> str:
    """Write a text in letters of private use, so that no later rule finds it."""
    return "".join(chr(ord(letter) + _SHIFT) for letter in text)


def _replace(
    cleaned: Cleaned, pattern: re.Pattern[str], kind: str, put: Callable[[re.Match[str]], str | None] | None
) -> None:
    """Replace what a rule finds; a rule may say of a match that it isn't one (None)."""

    def fresh(found: re.Match[str]) -> str:
        text = f"[{kind}]" if put is None else put(found)
        if text is None or text == found[0]:
            return found[0]
        placeholder = re.search(r"\[([A-Z]+)\]$", text)
        cleaned.found[placeholder[1] if placeholder else kind] += 1
        return text

    cleaned.text = pattern.sub(fresh, cleaned.text)


def _known_kind(text: str) -> str:
    return "[ID]" if any(letter.isdigit() for letter in text) else "[NAME]"


_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sep(?:t(?:ember)?)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?|januar|februar|märz|mai|juni|juli|oktober|dezember|janvier|février|mars|avril|juin|juillet"
    r"|août|septembre|octobre|novembre|décembre|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre"
    r"|noviembre|diciembre)\b\.?"
)
_FIRST = {
    name: number
    for number, names in enumerate(
        (
            "jan ene", "feb fév", "mar mär", "apr abr avr", "may mai", "jun juin", "jul juil", "aug aoû ago", "sep", "oct okt",
            "nov", "dec dez dic déc",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
_NO_UNIT = r"(?!\s*(?:mm|cm|ml|cc|mg|kg|%|x\s*\d|×)|[\d/]|\.\d)"
_NOT_IN_NUMBER = r"(?<![\d.,/:-])"


def _any_case(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# Pattern and the order of its groups; each is checked to be a day of the calendar.
_DATES = (
    (_any_case(rf"\b(\d{{1,2}})(?:st|nd|rd|th|\.)?[\s-]*(?:of\s+|de\s+)?({_MONTH})[\s,-]*(?:de\s+)?((?:19|20)\d\d|['’]?\d\d\b(?!\s*(?:mm|cm|year|:)))"), "dmy"),
    (_any_case(rf"\b({_MONTH})[\s-]*(\d{{1,2}})(?:st|nd|rd|th)?\b(?:\s*,\s*|[\s-]+)((?:19|20)\d\d)"), "mdy"),
    (re.compile(rf"{_NOT_IN_NUMBER}((?:19|20)\d\d)([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01]){_NO_UNIT}"), "y.md"),
    (re.compile(rf"{_NOT_IN_NUMBER}(\d{{1,2}})([-/.])(\d{{1,2}})\2((?:19|20)\d\d){_NO_UNIT}"), "m.dy"),
    (re.compile(rf"{_NOT_IN_NUMBER}(\d{{1,2}})([-/])(\d{{1,2}})\2(\d\d){_NO_UNIT}"), "m.dy"),
    (re.compile(rf"{_NOT_IN_NUMBER}(\d\d)(\.)(\d\d)\2(\d\d){_NO_UNIT}"), "d.my"),
    (re.compile(rf"{_NOT_IN_NUMBER}((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?:\d{{6}})?(?![\d.])"), "ymd"),
    (_any_case(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?({_MONTH})(?![\w-])"), "dm"),
    (_any_case(rf"\b({_MONTH})\s+(\d{{1,2}})(?:st|nd|rd|th)?\b(?!\s*(?:mm|cm|%|years?|weeks?|months?|days?)|\.\d|:\d)"), "md"),
    (_any_case(rf"\b({_MONTH})[\s,]+(?:of\s+)?((?:19|20)\d\d)\b"), "my"),
    (_any_case(rf"(?<=\bon )(\d{{1,2}})/(\d{{1,2}}){_NO_UNIT}"), "md"),
    (_any_case(rf"(?<=\bdated )(\d{{1,2}})/(\d{{1,2}}){_NO_UNIT}"), "md"),
    (_any_case(r"(?<![\d.,/:-])(0[1-9]|1[0-2])/((?:19|20)\d\d)\b"), "my"),
)  # fmt: skip


def _date(found: re.Match[str], *, order: str, days: int | None) -> str | None:
    """Replace a date, if it is one: by a placeholder, or moved where it is whole."""
    parts = dict(zip(order, found.groups(), strict=True))
    month = _month(parts["m"])
    day = int(parts["d"]) if "d" in parts else 1
    if "." in order and month > 12 >= day:
        month, day = day, month  # 31/12/2019
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    if days is None or not {"d", "y"} <= parts.keys():
        return "[DATE]"
    year = int(parts["y"].strip("'’"))
    try:
        moved = date(year + (0 if year > 99 else 2000 if year < 50 else 1900), month, day) + timedelta(days=days)
    except (ValueError, OverflowError):
        return "[DATE]"
    return _shielded(moved.isoformat())


def _month(text: str) -> int:
    if text.isdigit():
        return int(text)
    return next((_FIRST[text.lower()[:length]] for length in (4, 3) if text.lower()[:length] in _FIRST), 0)


_WORD = r"(?:\[NAME\]|[A-Z]\.(?=[ ]?[A-Z])|[^\W\d_a-zß-öø-ÿ][^\W\d_]*(?:['’-][^\W\d_]+){0,3})"  # begins with a capital letter
_LINK = r"(?:van|von|der|den|de|del|la|le|bin|ibn|al|el|ter|zu|dos|da|di)"
_NAME = rf"(?:{_LINK}[ ]+)*{_WORD}(?:(?:[ ]*,[ ]*|[ ]+|(?<=\.))(?:{_LINK}[ ]+)*{_WORD}){{0,3}}"
_PLAIN_NAME = rf"(?:{_LINK}[ ]+)*{_WORD}(?:(?:[ ]+|(?<=\.))(?:{_LINK}[ ]+)*{_WORD}){{0,3}}"
_TITLE = r"\b(?:Drs?|Doctor|Prof(?:essor)?|Mr|Mrs|Ms|Miss|Mme|Herrn?|Frau|Sir|Dame|Nurse|Sister|Sr|DR|MRS|PROF)\b\.?"
_UPPER_TITLE = r"\b(?:MR|MS)\."
_LABEL = (
    r"(?:(?:electronically |digitally )?(?:signed|dictated|reported|read|interpreted|transcribed|reviewed|verified|approved|"
    r"authenticated|performed|requested|ordered|referred|finali[sz]ed)(?: (?:and (?:signed|verified|approved)))? by"
    r"|(?:patient(?:'s)?|full|last|first|family|maiden)[ ]?name|name(?=[ ]*:)|patient(?=[ ]*:)"
    r"|(?:referring|attending|ordering|requesting|consulting|reporting|family|primary care)"
    r" (?:physician|doctor|radiologist|provider|clinician|consultant)|radiologist(?=[ ]*:)|physician(?=[ ]*:)"
    r"|technologist(?=[ ]*:)|resident(?=[ ]*:)|attending(?=[ ]*:)|discussed with|communicated to|conveyed to|notified|courtesy of|credits? to|cc(?=[ ]*:))"
)
_DEGREE = r"(?:M\.?[ ]?D\.?|D\.?O\.?|Ph\.?D\.?|R\.?N\.?|PA-C|FRCR|FRCS|MRCP|FACR|MBBS|MBChB|NP|RT\(R\))"
_ID_LABEL = (
    r"(?:MRN|M\.R\.N\.|medical record(?:[ ]*(?:number|no\.?|#))?|record (?:number|no\.?)|patient[ ]?(?:id|no\.?|number)|pt\.?[ ]?id"
    r"|hospital (?:number|no\.?)|unit (?:number|no\.?)|accession(?:[ ]*(?:number|no\.?|id))?|acc(?:\.|[ ]*#|[ ]no\.?)|case (?:number|no\.?|id)"
    r"|exam (?:number|no\.?|id)|study (?:number|no\.?|id)|order (?:number|no\.?|id)|visit (?:number|no\.?|id)"
    r"|encounter(?:[ ]*(?:number|no\.?|id))?|account (?:number|no\.?)|SSN|social security(?:[ ]*(?:number|no\.?))?|NHS(?:[ ]*(?:number|no\.?))?"
    r"|insurance(?:[ ]*(?:number|no\.?|id))?|policy (?:number|no\.?)|licen[cs]e (?:number|no\.?)|serial (?:number|no\.?)|device id)"
)
_PLACES = (
    r"(?:Hospitals?|Clinic|Infirmary|Hospice|Medical (?:Center|Centre|College|School|Group|Associates)|Health (?:System|Center|Centre|Service|Network)"
    r"|Imaging (?:Center|Centre|Associates)|Radiology Associates|Cancer (?:Center|Centre|Institute)|Nursing Home|Care Home|Klinikum|Krankenhaus"
    r"|Universitätsklinikum|Hôpital|Ospedale|HOSPITAL|CLINIC|MEDICAL CENTER|MEDICAL CENTRE)"
)
_STREETS = r"(?:Street|St\.|Avenue|Ave\.?|Road|Rd\.?|Lane|Ln\.?|Drive|Boulevard|Blvd\.?|Square|Terrace|Parkway|Highway|Hwy\.?|Court|Crescent)"
_ZIP = r"(?:,?[ ]+[A-Z][\w .]+?,[ ]*[A-Z]{2}[ ]+\d{5}(?:-\d{4})?)"
_LEAVE = frozenset(
    [
        "The",
        "This",
        "That",
        "Our",
        "A",
        "An",
        "At",
        "In",
        "Of",
        "Local",
        "Outside",
        "Other",
        "Another",
        "Same",
        "Your",
        "No",
        "Any",
        "General",
        "Referring",
    ]
)
_NO_NAME = frozenset(
    ["No", "The", "There", "This", "These", "Brain", "Chest", "Normal", "Findings", "Impression", "Comparison", "Technique", "Study", "Images", "A", "An", "In", "Is", "Was", "Shows", "Left", "Right", "Spine", "Abdomen", "Pelvis", "Head", "Neck", "Scan", "Imaging", "Angiography", "Examination", "Contrast"]
)  # fmt: skip


def _after(found: re.Match[str]) -> str | None:
    """Keep a title or label, replace the name after it."""
    first = re.split(r"[ ,]", found["name"])[0]
    if first.title() in _NO_NAME or found["name"] == "[NAME]":
        return None
    if re.match(_UPPER_TITLE, found["head"]) and first in codes():
        return None  # "CT AND MR. BRAIN AND SPINE"
    return f"{found['head']}[NAME]"


def _place(found: re.Match[str]) -> str | None:
    """Replace a hospital's name, but not words as `The Hospital`."""
    words = [word for word in found["name"].split() if word not in _LEAVE]
    return "[PLACE]" if words else None


def _age(found: re.Match[str]) -> str | None:
    """Replace an age over 89 years."""
    number = found["age"]
    return found[0].replace(number, "[AGE]") if 89 < int(number) < 130 else None


def _labelled(found: re.Match[str]) -> str | None:
    """Replace the value after a label, which must hold a digit."""
    return f"{found['head']}[ID]" if any(letter.isdigit() for letter in found["id"]) else None


_SEVERAL = re.compile(r"\[NAME\](?:[ ]?,?[ ]\[NAME\])+")  # one name, of which the header had parts
_Rule = tuple[str, re.Pattern[str], Callable[[re.Match[str]], str | None] | None]
_FIRST_RULES: tuple[_Rule, ...] = (
    ("EMAIL", re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+"), None),
    ("URL", _any_case(r"\b(?:https?://|ftp://|www\.)[^\s<>\"')\]]+"), None),
)
_RULES: tuple[_Rule, ...] = (
    ("ID", _any_case(rf"(?P<head>\b{_ID_LABEL}(?:[ ]*(?:[:#=]|is|no\.?|number))*[ ]*[:#]?[ ]*)(?P<id>[A-Z0-9][\w/-]{{2,}}(?:[ -]\d{{2,}})*)"), _labelled),
    ("ID", re.compile(r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"), None),
    ("ADDRESS", re.compile(rf"(?<![\d.,/-])\d{{1,5}}[A-Za-z]?[ ]+(?:{_WORD}[ ]+){{1,4}}{_STREETS}(?!\w)(?:,?[ ]+(?:Apt|Suite|Unit|Apartment|Floor|#)\.?[ ]*\w+)?{_ZIP}?"), None),
    ("ADDRESS", _any_case(r"\bP\.?[ ]?O\.?[ ]+Box[ ]+\d+"), None),
    ("ADDRESS", re.compile(r"\b[A-Z][a-z]+(?:[ ][A-Z][a-z]+)?,[ ]*[A-Z]{2}[ ]+\d{5}(?:-\d{4})?\b"), None),
    ("ADDRESS", _any_case(r"(?<=postcode )[A-Z]{1,2}\d[A-Z\d]?[ ]?\d[A-Z]{2}\b|(?<=postcode: )[A-Z]{1,2}\d[A-Z\d]?[ ]?\d[A-Z]{2}\b"), None),
    ("PHONE", re.compile(r"(?<![\d.,/-])(?:\+?\d{1,3}[ .-]?)?(?:\(\d{3}\)[ ]?|\d{3}[ .-])\d{3}[ .-]\d{4}(?:[ ]*(?:x|ext\.?)[ ]*\d+)?(?![\d-])"), None),
    ("PHONE", re.compile(r"(?<![\w.])\+\d{1,3}[ ()\d.-]{7,16}\d(?!\w)"), None),
    ("PHONE", _any_case(r"(?P<head>\b(?:tel(?:ephone)?|phone|fax|mobile|cell|pager|beeper|bleep|extension|ext)\b\.?(?:[ ]*(?:[:#]|no\.?|number))*[ ]*)(?P<id>\+?[\d][\d ()./-]{2,}\d)"), lambda found: f"{found['head']}[PHONE]"),
)  # fmt: skip
_LATE_RULES: tuple[_Rule, ...] = (
    ("TIME", _any_case(r"(?<![\d.:])(?<!titer )(?<!titre )(?<!ratio )(?<!ratio of )(?<!dilution )(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:[ ]*[ap]\.?m\b\.?)?(?!\d|:|[ ]*(?:dilution|ratio))"), None),
    ("TIME", _any_case(r"(?<![\d.:])(?:1[0-2]|0?[1-9])[ ]*[ap]\.?m\b\.?(?!\w)"), None),
    ("TIME", _any_case(r"(?<![\d.:])(?:[01]\d|2[0-3])[0-5]\d[ ]*(?:hours|hrs|h)\b"), None),
    ("AGE", _any_case(r"\b(?P<age>\d{2,3})[ -]*(?:year|yr|y/?o\b|y\.o\.)"), _age),
    ("AGE", _any_case(r"\b(?:aged?(?: of)?|age:)[ ]*(?P<age>\d{2,3})\b(?!\s*(?:months|days|weeks))"), _age),
    ("PLACE", re.compile(rf"\b(?P<name>(?:(?:St\.|{_WORD}|of|and|&|the)[ ]+){{1,6}}?){_PLACES}\b(?:[ ]+of(?:[ ]+{_WORD}){{1,4}})?"), _place),
    ("PLACE", re.compile(rf"\b(?P<name>(?:Hospital|Hôpital|Klinikum|Ospedale|Krankenhaus|Clinique)[ ]+(?:(?:of|de|di|la|le|der|the|for|zum)[ ]+)*{_WORD}(?:[ ]+{_WORD}){{0,3}})"), lambda found: "[PLACE]"),
    ("NAME", re.compile(rf"(?P<head>{_TITLE}[ ]+(?:{_TITLE}[ ]+)*)(?P<name>{_PLAIN_NAME})(?:['’]s)?"), _after),
    ("NAME", re.compile(rf"(?P<head>{_UPPER_TITLE}[ ]+)(?P<name>[A-Z][A-Z'’-]{{2,}}(?:[ ][A-Z][A-Z'’-]+){{0,2}})(?![a-z])"), _after),
    ("NAME", re.compile(rf"(?P<head>(?i:\b{_LABEL})(?:[ ]*[:=])?[ ]*)(?P<name>(?!Dr\b){_NAME})"), _after),
    ("NAME", re.compile(rf"(?P<head>)(?<!\w)(?P<name>{_PLAIN_NAME})(?=,?[ ]+{_DEGREE}(?![\w.]*\w))"), _after),
    ("ID", re.compile(r"(?<![\d.,/-])(?<!\w)[A-Z]{0,4}-?\d{7,}(?![\d.]\d|\w)"), None),
    ("ID", re.compile(r"\b(?=[A-Z]*\d)[A-Z]{1,4}\d{5,}\b|\b[A-Z]{2,4}-\d{4,}\b"), None),
)  # fmt: skip
