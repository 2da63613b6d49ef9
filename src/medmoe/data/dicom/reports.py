"""The text of a report: a structured report (DICOM SR), a document inside a DICOM file, or a text file beside it.

What a report says is in its items of text, codes and numbers; who wrote it, for whom and when isn't text of the
report, and is left out (PS3.3 C.17.3, https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.17.3.html).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from medmoe.data.dicom.header import first_line, read_header, refusals
from medmoe.errors import DataError

log = logging.getLogger(__name__)

TEXT_FILES = (".txt", ".text")
MAX_BYTES = 4_000_000  # of a document; a report of 600,000 words is none
_DEEPEST = 32
_ABOUT_THE_DOCUMENT = ("HAS OBS CONTEXT", "HAS ACQ CONTEXT")  # observers, subjects, scanners
_LANGUAGE = ("121049", "121046")  # DCM codes: language and country of content
_XML_TEXT = ("title", "text")  # of a section of a clinical document (HL7 CDA)


def report_text(path: str | Path) -> str | None:
    """Read the text of a report.

    Args:
        path: A DICOM file (structured report, or an encapsulated text or XML document), or a text file.

    Returns:
        Lines, items under their concept's name (`Finding: ...`), headings of containers on lines of their own; None
        if the file is DICOM but holds no text that can be read (an image, or a PDF, which is logged).

    Raises:
        DataError: If the file is missing or damaged, or its document is larger than 4 MB.
    """
    path = Path(path)
    try:
        if path.suffix.lower() in TEXT_FILES:
            return _plain(_limited(path.read_bytes(), str(path))) or None
        with path.open("rb") as file:
            data = read_header(file, str(path), pixels=False)
    except FileNotFoundError as error:
        raise DataError("no such report", where=str(path), remedy="check the path") from error
    except OSError as error:
        raise DataError(f"the report can't be read ({first_line(error)})", where=str(path)) from error
    try:
        if data.get("ContentSequence"):
            return "\n".join(_lines(data, 0)).strip() or None
        if "EncapsulatedDocument" in data:
            return _document(data, str(path))
    except refusals() as error:
        what = f"the report's content can't be read ({first_line(error)})"
        raise DataError(what, where=str(path), remedy="export it again, or take it out") from error
    return None


def _lines(item: Any, depth: int) -> Iterator[str]:
    """Yield the lines of a content item and of those below it, in their order."""
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels of content")
    if _is_about_the_document(item):
        return
    name, text = _meaning(item, "ConceptNameCodeSequence"), _value(item)
    if text:
        yield f"{name}: {text}" if name else text
    elif item.get("ValueType") == "CONTAINER" and name:
        yield name
    for below in item.get("ContentSequence") or ():
        yield from _lines(below, depth + 1)


def _is_about_the_document(item: Any) -> bool:
    name = (item.get("ConceptNameCodeSequence") or [{}])[0]
    return item.get("RelationshipType") in _ABOUT_THE_DOCUMENT or str(name.get("CodeValue", "")) in _LANGUAGE


def _value(item: Any) -> str:
    """Word the value of a text, code or number; nothing for persons, times, images and the like."""
    kind = item.get("ValueType")
    if kind == "TEXT":
        return _tidy(str(item.get("TextValue") or ""))
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        measured = (item.get("MeasuredValueSequence") or [None])[0]
        if measured is None or measured.get("NumericValue") in (None, ""):
            return ""
        number = measured.NumericValue
        units = (measured.get("MeasurementUnitsCodeSequence") or [{}])[0]
        unit = str(units.get("CodeValue") or units.get("CodeMeaning") or "")
        return f"{number} {unit}".strip() if unit not in ("1", "{no units}") else str(number)
    return ""


def _meaning(item: Any, sequence: str) -> str:
    code = (item.get(sequence) or [{}])[0]
    return _tidy(str(code.get("CodeMeaning") or ""))


def _document(data: Any, where: str) -> str | None:
    """Read an encapsulated document, by its media type."""
    kind = str(data.get("MIMETypeOfEncapsulatedDocument") or "").lower().split(";")[0].strip()
    content = _limited(bytes(data.EncapsulatedDocument or b""), where).rstrip(b"\0")
    if kind in ("text/xml", "application/xml"):
        return _xml(content, where) or None
    if kind == "text/plain":
        return _plain(content) or None
    log.warning(
        "%s: the encapsulated document is %s, which isn't read; only text and XML are", where, kind or "unnamed"
    )
    return None


def _xml(content: bytes, where: str) -> str:
    """Give titles and texts of a clinical document's sections; of other XML, all its text."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # could grow without bound, or name other files
        raise DataError("the XML document declares entities", where=where, remedy="export it without a DOCTYPE")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise DataError(f"the XML document is damaged ({first_line(error)})", where=where) from error
    sections = [part for part in root.iter() if part.tag.rpartition("}")[2] == "section"]
    parts = [part for section in sections for part in section if part.tag.rpartition("}")[2] in _XML_TEXT]
    texts = (_tidy(" ".join(part.itertext())) for part in parts or [root])  # blocks apart, as their tags keep them
    return "\n".join(re.sub(r" (?=[.,;:!?])", "", text) for text in texts if text)


def _plain(content: bytes) -> str:
    """Decode text: UTF-8 if it is, else Latin-1, which never fails."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\0", "").strip()


def _tidy(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _limited(content: bytes, where: str) -> bytes:
    if len(content) > MAX_BYTES:
        raise DataError(f"a report of {len(content):,} bytes; at most {MAX_BYTES:,} are read", where=where)
    return content
