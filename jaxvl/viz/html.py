"""A report as one HTML file that needs nothing else: no script, no link, no font, no picture beside it.

Everything that comes from a run (captions, file names, config values) is escaped. The page follows the
reader's light or dark scheme.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from jaxvl.viz import images
from jaxvl.viz.cells import cell, table_texts
from jaxvl.viz.curves import Series, line_chart
from jaxvl.viz.timeline import Bar, timeline

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2026; --faint: #666c78; --rule: #dfe2e8; --page: #fff; --band: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6ea; --faint: #9aa1ad; --rule: #353a43; --page: #16181c; --band: #1f2227; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 8px 0 20px; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 34px 0 10px; padding-bottom: 4px; border-bottom: 1px solid var(--rule); }
p { margin: 6px 0; max-width: 78ch; overflow-wrap: anywhere; }
nav { font-size: 13px; margin-bottom: 8px; }
nav a { color: var(--faint); margin-right: 14px; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 8px; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
thead th { color: var(--faint); font-weight: 600; font-size: 13px; border-bottom-width: 2px; white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--band); }
.number { text-align: right; white-space: nowrap; }
.note { color: var(--faint); font-size: 13px; }
.pairs th { color: var(--faint); font-weight: 500; white-space: nowrap; }
.pairs td { overflow-wrap: anywhere; }
.charts { display: flex; flex-wrap: wrap; gap: 18px; }
svg, img { max-width: 100%; height: auto; }
figure { margin: 8px 0; }
img { display: block; border: 1px solid var(--rule); border-radius: 4px; }
figcaption { color: var(--faint); font-size: 13px; margin-top: 5px; max-width: 90ch; }
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text and numbers. columns: headings; rows: as many cells each; note: a line below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Curves:
    """Line charts side by side. charts: (name of the chart, its series); log_y: names drawn logarithmically."""

    title: str
    charts: Sequence[tuple[str, Sequence[Series]]]
    x_label: str = "step"
    log_y: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Picture:
    """One picture with a caption below. image: `PIL.Image` or uint8 `[H, W, 3]`; kind: 'png' or 'jpeg'."""

    title: str
    image: Image.Image | np.ndarray
    caption: str = ""
    kind: str = "png"


@dataclasses.dataclass(frozen=True)
class Text:
    """Paragraphs of plain text."""

    title: str
    paragraphs: Sequence[str]


@dataclasses.dataclass(frozen=True)
class KeyValues:
    """Names and values, such as a config or an environment."""

    title: str
    items: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Bars over time. rows: (name, bars); duration: seconds."""

    title: str
    rows: Sequence[tuple[str, Sequence[Bar]]]
    duration: float
    caption: str = ""


Section = Table | Curves | Picture | Text | KeyValues | Timeline


def render_report(title: str, sections: Sequence[Section]) -> str:
    """The whole page. Section titles become headings with links above; an empty title gives no heading.
    Raises TypeError for something that is no section and ValueError for a table row of the wrong length."""
    for section in sections:
        if not isinstance(section, Section):
            raise TypeError(f"{type(section).__name__} is no section of a report")
    links = [f'<a href="#s{k}">{escape(s.title)}</a>' for k, s in enumerate(sections) if s.title]
    body = []
    for k, section in enumerate(sections):
        head = f'<h2 id="s{k}">{escape(section.title)}</h2>' if section.title else ""
        body.append(f"<section>{head}{_body(section)}</section>")
    nav = f"<nav>{''.join(links)}</nav>" if len(links) > 2 else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>{nav}\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


@functools.singledispatch
def _body(section: Section) -> str:
    raise TypeError(f"{type(section).__name__} is no section of a report")


@_body.register
def _(section: Table) -> str:
    texts, right = table_texts(section.rows, section.columns)

    def mark(k: int) -> str:
        return ' class="number"' if right[k] else ""

    head = "".join(f"<th{mark(k)}>{escape(str(name))}</th>" for k, name in enumerate(section.columns))
    lines = [
        "<tr>" + "".join(f"<td{mark(k)}>{escape(text)}</td>" for k, text in enumerate(row)) + "</tr>" for row in texts
    ]
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>{note}'


@_body.register
def _(section: Curves) -> str:
    charts = [line_chart(series, name, section.x_label, log_y=name in section.log_y) for name, series in section.charts]
    return f'<div class="charts">{"".join(charts)}</div>'


@_body.register
def _(section: Picture) -> str:
    picture = images.as_image(section.image)
    caption = f"<figcaption>{escape(section.caption)}</figcaption>" if section.caption else ""
    return (
        f'<figure><img src="{images.data_uri(picture, section.kind)}" width="{picture.width}" '
        f'height="{picture.height}" alt="{escape(section.caption or section.title)}">{caption}</figure>'
    )


@_body.register
def _(section: Text) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in section.paragraphs)


@_body.register
def _(section: KeyValues) -> str:
    lines = [f"<tr><th>{escape(str(k))}</th><td>{escape(cell(v))}</td></tr>" for k, v in section.items.items()]
    return f'<div class="wide"><table class="pairs"><tbody>{"".join(lines)}</tbody></table></div>'


@_body.register
def _(section: Timeline) -> str:
    caption = f"<figcaption>{escape(section.caption)}</figcaption>" if section.caption else ""
    return f"<figure>{timeline(section.rows, section.duration)}{caption}</figure>"
