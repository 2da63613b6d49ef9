"""HTML built from calls, so that every text is escaped unless it is markup already.

Also how the page writes a number: three digits, and a dash where there is none.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable

_VOID = {"img", "meta", "br"}
DASH = "–"


class Html(str):
    """Text that is markup already and isn't escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: object) -> Html:
    """Write one element; children that aren't `Html` are escaped, None is left out.

    Args:
        name: The element's name.
        children: Text or markup inside it.
        attributes: Attributes; a trailing underscore is dropped and others become hyphens
            (`class_`, `aria_label`), None leaves one out and True writes it bare.

    >>> tag("p", "2 < 3", class_="note")
    '<p class="note">2 &lt; 3</p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str | None], separator: str = "") -> Html:
    """Put parts behind one another, escaping those that aren't `Html`."""
    return Html(separator.join(_escape(part) for part in parts if part is not None))


def number(value: object) -> str:
    """Write a number with three digits, and anything that isn't a finite one as a dash.

    >>> [number(x) for x in (0.85349, 12.345, -4321.0, 0.00005, float("nan"), None)]
    ['0.853', '12.3', '−4,321', '5.0e-05', '–', '–']
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return DASH
    if value < 0:
        return "−" + number(-value)
    if isinstance(value, int) or value >= 99.95:
        return f"{value:,.0f}"
    if 0 < value < 0.001:
        return f"{value:.1e}"
    return f"{value:.3f}" if value <= 1 else f"{value:#.3g}"


def finite(value: object) -> float | None:
    """Give the value as a float, or None where it isn't a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _escape(text: str) -> str:
    return text if isinstance(text, Html) else html.escape(text, quote=True)


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{html.escape(str(value), quote=True)}"'
