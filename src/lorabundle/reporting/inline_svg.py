"""A drawing as part of an HTML page."""

import re
from xml.etree import ElementTree

from lorabundle.reporting.figures import BLACK

BACKGROUND = "patch_1"  # matplotlib's id for the figure's own rectangle


def inline_svg(svg: bytes, name: str) -> str:
    """A drawing as an `<svg>` element of an HTML page.

    Ids get the figure's name as a prefix, because a page must not have an id twice. `style` attributes become plain ones, because
    a strict content security policy forbids them. For dark pages, black becomes the page's text colour and the white background
    is removed.
    """
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")) or child.get("id") == BACKGROUND:
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # HTML knows SVG's elements without a namespace
        attributes = {key.rpartition("}")[2]: value for key, value in element.items()}
        attributes |= _declarations(attributes.pop("style", ""))
        element.attrib.clear()
        for key, value in attributes.items():
            if key == "id":
                value = f"{name}-{value}"
            elif key == "href" or value.startswith("url(#"):
                value = value.replace("#", f"#{name}-")
            element.set(key, "currentColor" if value == BLACK else value)
        if element.tag == "text":
            element.attrib.setdefault("fill", "currentColor")
    for key in ("width", "height", "version"):
        del root.attrib[key]
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    root.attrib["aria-hidden"] = "true"  # the page describes it
    return re.sub(r"\s*\n\s*", "\n", ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _declarations(style: str) -> dict[str, str]:
    """The declarations of a `style` attribute, except the font family, which the page sets."""
    pairs = dict(re.split(r":\s*", item.strip(), maxsplit=1) for item in style.split(";") if item.strip())
    pairs.pop("font-family", None)
    return pairs
