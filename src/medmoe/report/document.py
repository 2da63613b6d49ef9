"""The frame of a page: its head, first lines, links to the sections, and the sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medmoe.report.markup import Html, tag
from medmoe.report.style import CSS


class Section(NamedTuple):
    """One section of a page: the name links lead to, its heading, a sentence under it, and what it holds."""

    anchor: str
    heading: str
    lead: str
    content: Html


def document(title: str, lead: str, sections: Sequence[Section], *, first: Html | None = None) -> str:
    """Write a whole page; it loads nothing from elsewhere and runs no script.

    Args:
        title: The page's title.
        lead: One sentence under it.
        sections: The sections, in order.
        first: What stands between the lead and the links, before all sections.
    """
    links = [tag("a", section.heading, href=f"#{section.anchor}") for section in sections]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(CSS)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", lead, class_="lead"), first, tag("nav", *links)),
        tag("main", *map(_section, sections)),
        tag("footer", tag("p", "A research tool: its figures are no evidence of clinical use.", class_="note")),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def warned(found: Sequence[str]) -> Html:
    """Write warnings as the box that stands before everything else."""
    count = "1 warning" if len(found) == 1 else f"{len(found)} warnings"
    listed = [tag("li", said) for said in found]
    return tag("div", tag("b", count), tag("ul", *listed), class_="warnings", role="note")


def _section(section: Section) -> Html:
    under = tag("p", section.lead, class_="lead") if section.lead else None
    return tag("section", tag("h2", section.heading), under, section.content, id=section.anchor)
