"""Foreign text and markup, made fit to stand on a page: nothing of it acts.

Owns which characters, tags, attributes and links are kept. Knows nothing of notebooks, or of the
pages that it is for.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.errors import printable

if TYPE_CHECKING:
    import nh3
    from markdown_it import MarkdownIt
    from markdown_it.token import Token
    from markupsafe import Markup

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_LOCAL_LINK = re.compile(r"(?!//)[\w./-]*(?:#[\w.-]*)?")  # no scheme, no host, no query
_DATA_IMAGE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
_DATA_AUDIO = re.compile(r"data:audio/wav;base64,[A-Za-z0-9+/]+={0,2}")
# fmt: off
_TAGS = frozenset({
    "a", "abbr", "audio", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd",
    "del", "details", "div", "dl", "dt", "em", "figcaption", "figure", "hr", "i", "img", "ins",
    "kbd", "li", "mark", "ol", "p", "pre", "q", "s", "samp", "small", "span", "strong", "sub",
    "summary", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "time", "tr", "u", "ul",
    "var", "wbr",
})
_DROPPED_WHOLE = frozenset({  # not even the text inside is kept
    "embed", "iframe", "math", "noembed", "noframes", "noscript", "object", "script", "select",
    "style", "svg", "template", "textarea", "title", "xmp",
})
# fmt: on
_ATTRIBUTES = {
    "*": frozenset({"class", "lang", "title", "role", "aria-label", "aria-hidden"}),
    "a": frozenset({"href"}),
    "audio": frozenset({"src", "controls", "preload"}),
    "div": frozenset({"tabindex"}),
    "img": frozenset({"src", "alt", "width", "height"}),
    "td": frozenset({"colspan", "rowspan"}),
    "th": frozenset({"colspan", "rowspan", "scope"}),
    "details": frozenset({"open"}),
}
_ATTRIBUTE_VALUES = {
    "class": re.compile(r"lab-[a-z]+(?: lab-[a-z]+)*"),
    "lang": re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*"),
    "role": re.compile(r"region"),
    "tabindex": re.compile(r"0"),
    "aria-hidden": re.compile(r"true|false"),
    "href": _LOCAL_LINK,
    "controls": re.compile(r""),
    "preload": re.compile(r"none"),
    "width": re.compile(r"\d{1,5}"),
    "height": re.compile(r"\d{1,5}"),
    "colspan": re.compile(r"\d{1,3}"),
    "rowspan": re.compile(r"\d{1,4}"),
    "scope": re.compile(r"col|row|colgroup|rowgroup"),
}


@dataclass(frozen=True)
class Heading:
    """One line of the table of contents."""

    level: int
    text: str
    anchor: str


def visible(text: str) -> str:
    """Return text whose lines hold only what can be seen; line breaks and tabs stay."""
    lines = text.replace("\r\n", "\n").expandtabs(4).split("\n")
    return "\n".join(printable(line) for line in lines)


def terminal(text: str) -> str:
    """Return what a terminal would show: colours gone, overwritten progress lines gone."""
    text = _ANSI.sub("", text.replace("\r\n", "\n"))
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def preformatted(text: str) -> Markup:
    """Return text for a ``pre``: escaped, nothing in it acts, lines kept."""
    from markupsafe import escape

    return escape(visible(_ANSI.sub("", text)))


def one_line(text: str) -> str:
    """Return text on one line of at most 300 characters, colours gone."""
    line = " ".join(_ANSI.sub("", text).split())
    return line if len(line) <= 300 else f"{line[:299]}…"


@functools.cache
def _cleaner() -> nh3.Cleaner:
    import nh3

    def keep(tag: str, attribute: str, value: str) -> str | None:
        rule = _ATTRIBUTE_VALUES.get(attribute)
        if attribute == "src":
            rule = _DATA_AUDIO if tag == "audio" else _DATA_IMAGE
        return value if rule is None or rule.fullmatch(value) else None

    return nh3.Cleaner(
        tags=set(_TAGS),
        clean_content_tags=set(_DROPPED_WHOLE),
        attributes={tag: set(names) for tag, names in _ATTRIBUTES.items()},
        attribute_filter=keep,
        url_schemes={"data"},  # of images and recordings; the filter refuses them in links
        link_rel=None,
    )


def sanitised(html: str) -> str:
    """Return foreign markup reduced to text, tables, lists, inline images and recordings.

    No script, style, form, frame, handler, identifier or remote address is left. The lab's own
    tables pass unchanged but for their style, which the page has already.
    """
    # Invisible characters may also come as references (&#x202e;), so look again afterwards.
    cleaned = visible(_cleaner().clean(visible(html)))
    return re.sub(r"<img\b(?![^>]*\balt=)", '<img alt="Image without a description"', cleaned)


@functools.cache
def _markdown_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def first_heading(source: str) -> str | None:
    """Return the text of markdown's first heading, or None if there is none."""
    for opening, content in itertools.pairwise(_markdown_parser().parse(visible(source))):
        if opening.type == "heading_open":
            return _inline_text(content)
    return None


def markdown(source: str, headings: list[Heading] | None, *, title: str = "") -> Markup:
    """Return markdown as HTML; its headings go below the page's own and into ``headings``.

    Levels never skip one. A heading that repeats the page's title is left out. Without
    ``headings`` (an output) they become bold paragraphs. Raw HTML in it stays text.
    """
    from markupsafe import Markup

    parser = _markdown_parser()
    tokens = parser.parse(visible(source))
    kept: list[Token] = []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if token.type == "heading_open":
            opening, content, closing = tokens[position : position + 3]
            text = _inline_text(content)
            position += 3
            if headings is not None and not headings and text == title:
                continue
            if headings is None or not text:
                opening.tag = closing.tag = "p"
            else:
                above = headings[-1].level if headings else 1
                level = max(2, min(int(opening.tag[1]), above + 1, 6))
                anchor = f"section-{len(headings) + 1}"
                headings.append(Heading(level, text, anchor))
                opening.tag = closing.tag = f"h{level}"
                opening.attrs = {"id": anchor}
            kept += [opening, content, closing]
            continue
        kept.append(token)
        position += 1
    for token in kept:
        if token.children:
            token.children = _without_remote(token.children)
    html = parser.renderer.render(kept, parser.options, {})
    return Markup(html)  # noqa: S704 (escaped by the renderer)


def _inline_text(token: Token) -> str:
    return "".join(
        child.content for child in token.children or [] if child.type in ("text", "code_inline")
    ).strip()


def _without_remote(children: Sequence[Token]) -> list[Token]:
    """Return inline tokens with remote links and images as text: address, alternative text."""
    from markdown_it.token import Token

    kept: list[Token] = []
    remote: list[str | None] = []
    for token in children:
        if token.type == "link_open":
            address = str(token.attrGet("href") or "")
            remote.append(None if _LOCAL_LINK.fullmatch(address) else address)
            if remote[-1] is None:
                kept.append(token)
        elif token.type == "link_close":
            address = remote.pop()
            if address is None:
                kept.append(token)
            elif not (kept and kept[-1].type == "text" and kept[-1].content == address):
                kept.append(Token("text", "", 0, content=f" ({address})"))
        elif token.type == "image":
            alt = _inline_text(token) or "without a description"
            if _DATA_IMAGE.fullmatch(str(token.attrGet("src") or "")):
                token.children = [Token("text", "", 0, content=alt)]
                kept.append(token)
            else:
                kept.append(Token("text", "", 0, content=f"[image: {alt}]"))
        else:
            kept.append(token)
    return kept
