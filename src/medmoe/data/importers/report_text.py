"""A radiology report's sections by their headings, and the part of it that describes the image."""

from __future__ import annotations

import re

SECTIONS = ("findings+impression", "findings", "impression", "all")
# A heading is a line's first words in capitals before a colon, such as ` FINDINGS:` or `FINAL IMPRESSION:`.
_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /()&-]{2,40}?)[ \t]*:", re.MULTILINE)


def sections_of(report: str) -> dict[str, str]:
    r"""Split a report at its headings.

    Args:
        report: Free text, headings in capitals at the beginning of a line, before a colon.

    Returns:
        Heading, lower case → text on one line; `""` holds what comes before the first. A heading that comes twice has
        both texts.

    >>> sections_of("FINAL REPORT\n FINDINGS:  Clear\n lungs.\n\n IMPRESSION: Normal.")
    {'': 'FINAL REPORT', 'findings': 'Clear lungs.', 'impression': 'Normal.'}
    """
    found: dict[str, str] = {}
    headings = list(_HEADING.finditer(report))
    starts = [("", 0, headings[0].start() if headings else len(report))]
    for at, heading in enumerate(headings):
        end = headings[at + 1].start() if at + 1 < len(headings) else len(report)
        starts.append((" ".join(heading[1].lower().split()), heading.end(), end))
    for name, start, end in starts:
        text = " ".join(report[start:end].split())
        if text:
            found[name] = f"{found[name]} {text}" if name in found else text
    return found


def described(report: str, wanted: str) -> str | None:
    r"""Give the part of a report that describes the image.

    Args:
        report: As for `sections_of`.
        wanted: One of `SECTIONS`. A report with neither findings nor impression gives its last paragraph, as many older
            ones have no headings.

    Returns:
        Text on one line, or None if there is none.

    >>> described("FINDINGS: Clear lungs.\nIMPRESSION: Normal.", "findings+impression")
    'Clear lungs. Normal.'
    """
    if wanted == "all":
        return " ".join(report.split()) or None
    found = sections_of(report)
    asked = _named(found, wanted.split("+"))
    if asked:
        return " ".join(asked)
    if _named(found, ["findings", "impression"]):
        return None
    paragraphs = [" ".join(text.split()) for text in re.split(r"\n[ \t]*\n", report)]
    last = next((text for text in reversed(paragraphs) if text), "")
    return re.sub(r"^[A-Z][A-Z /()&-]{2,40}:\s*", "", last) or None


def _named(found: dict[str, str], names: list[str]) -> list[str]:
    """Give the sections whose headings contain one of some words, each once: FINDINGS, FINDINGS AND IMPRESSION."""
    headings = dict.fromkeys(heading for name in names for heading in found if name in heading.split())
    return [found[heading] for heading in headings]
