"""The report as one HTML page that stands alone: its pictures inside, no script, nothing fetched."""

from __future__ import annotations

import base64
import html as escapes
import itertools
import re
from collections.abc import Iterable, Mapping

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; background: #fff }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; font-size: 13px }
th, td { text-align: left; padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid #ddd; vertical-align: top }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0 }
li:first-child { font-weight: 600 }
code { background: #f2f2f2; padding: 0 0.2rem; overflow-wrap: anywhere }
"""
_PICTURE = re.compile(r"!\[(.*)\]\((.*)\)")


def html(markdown: str, pictures: Mapping[str, bytes]) -> str:
    """The page of a report's `markdown` (headings, lists, tables, paragraphs, pictures), with the bytes of its `pictures` by name."""
    lines = [line for line in markdown.splitlines() if line.strip()]
    body = "".join(_block(kind, list(group), pictures) for kind, group in itertools.groupby(lines, _kind))
    title = escapes.escape(lines[0].lstrip("# ")) if lines else "report"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _kind(line: str) -> str:
    return next(
        (kind for kind, mark in (("h2", "## "), ("h1", "# "), ("ul", "- "), ("table", "| "), ("img", "![")) if line.startswith(mark)), "p"
    )


def _block(kind: str, lines: list[str], pictures: Mapping[str, bytes]) -> str:
    if kind == "ul":
        return "<ul>" + "".join(f"<li>{_words(line[2:])}</li>" for line in lines) + "</ul>"
    if kind == "table":
        cells = [[cell.strip() for cell in line.strip()[1:-1].split(" | ")] for line in lines]
        return f"<table>{_row(cells[0], 'th')}{''.join(_row(row, 'td') for row in cells[2:])}</table>"
    if kind == "img":
        return "".join(_picture(line, pictures) for line in lines)
    return "".join(f"<{kind}>{_words(line.lstrip('# '))}</{kind}>" for line in lines)


def _row(cells: Iterable[str], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{_words(cell)}</{kind}>" for cell in cells) + "</tr>"


def _words(text: str) -> str:
    """Escaped, with `code` marked as such."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escapes.escape(text))


def _picture(line: str, pictures: Mapping[str, bytes]) -> str:
    found = _PICTURE.fullmatch(line.strip())
    assert found is not None, line
    data = base64.b64encode(pictures[found[2]]).decode()
    return f'<img alt="{escapes.escape(found[1])}" src="data:image/png;base64,{data}">'
