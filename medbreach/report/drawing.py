"""A small SVG drawing: coloured by the page's style sheet, escaped by the XML writer."""

import math
from xml.etree import ElementTree as ET

from markupsafe import Markup

from medbreach.text import legible


class Drawing:
    """A drawing in pixels from the top left corner. Classes name what the page colours.

    Args:
        width: Width.
        height: Height.
        description: What it shows, for those who cannot see it.
    """

    def __init__(self, width: float, height: float, description: str) -> None:
        self._root = ET.Element(
            "svg",
            {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": description},
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """Draw a line."""
        self._add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def bar(self, x: float, y: float, width: float, height: float, kind: str, tip: str) -> None:
        """Draw a filled rectangle that says something when it is pointed at."""
        bar = self._add("rect", kind, x=x, y=y, width=width, height=height)
        ET.SubElement(bar, "title").text = legible(tip)

    def dot(self, x: float, y: float, radius: float, kind: str, tip: str) -> None:
        """Draw a dot that says something when it is pointed at."""
        dot = self._add("circle", kind, cx=x, cy=y, r=radius)
        ET.SubElement(dot, "title").text = legible(tip)

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Write text; ``anchor`` is what lies at x: its ``start``, ``middle`` or ``end``."""
        element = self._add("text", kind, x=x, y=y)
        element.set("text-anchor", anchor)
        element.text = legible(text)

    def markup(self) -> Markup:
        """Return the drawing, for a page."""
        return Markup(ET.tostring(self._root, encoding="unicode"))

    def _add(self, tag: str, kind: str, **places: float) -> ET.Element:
        attributes = {name: f"{place:.1f}".removesuffix(".0") for name, place in places.items()}
        return ET.SubElement(self._root, tag, {"class": kind} | attributes if kind else attributes)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from ``low`` to ``high``, at most so many.

    >>> ticks(0.0, 27.2)
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(
        s for f in (1, 2, 5, 10) if math.floor(high / (s := f * power)) - math.ceil(low / s) < most
    )
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
