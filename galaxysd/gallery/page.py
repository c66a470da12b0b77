"""The page itself: one HTML file that asks nobody for anything, with pictures, votes and FITS files inside.

Its content security policy allows pictures that are inside the page and the one script and the one style whose SHA-256 it names, so
nothing that a set may hold (ids, provenance) can run or call home. Text of a set enters as escaped HTML or escaped JSON only.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import io
import json
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from galaxysd import __version__
from galaxysd.data import transforms, writers
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import BadInput, GalaxySDError, Unavailable
from galaxysd.gallery import rows

Batch = tuple[Galaxies, Frame, Tensor | None]  # galaxies, their frame, measured fractions [B, A] or None

FITS_BUDGET = 64 << 20  # characters: a browser still opens a page of this size in seconds
SMALL_FIGURE = 700  # pixels: a narrower figure is enlarged without smoothing
HERE = Path(__file__).parent
WHAT = {
    "generated": "Drawn by a diffusion model from the votes and numbers on each card. "
    "No telescope saw these galaxies; none has a position in the sky.",
    "simulated": "Rendered from a parametric model of galaxies, telescope and noise; the votes are those of simulated volunteers. "
    "No telescope saw these galaxies.",
    "observed": "Images of a survey, with the votes that came with them.",
}


def build(
    batches: Mapping[str, Batch | None],
    title: str,
    summary: Sequence[tuple[str, str]] = (),
    figures: Sequence[tuple[str, bytes]] = (),
    provenance: Mapping[str, Mapping[str, Any]] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Gives the page: a panel for each of `batches` ("generated", "simulated", ...; at most two fit side by side).

    `summary` is lines of (what, how much), `figures` are (caption, PNG); `provenance` is that of each batch's set, by the same names;
    `notes` are sentences a reader should know, such as why nothing was measured.
    """
    present = {name: batch for name, batch in batches.items() if batch is not None and len(batch[0])}
    if not present:
        raise GalaxySDError("gallery: no galaxies to show; give a set with at least one")
    schemas = {frame.schema for _, frame, _ in present.values()}
    if len(schemas) > 1:
        raise BadInput(f"gallery: label schemas {' and '.join(sorted(schemas))}; give sets that answer the same questions")
    records = {name: dict((provenance or {}).get(name, {})) for name in present}
    panels, grids, files_inside, budget = [], [], [], FITS_BUDGET // len(present)
    for number, (name, (galaxies, frame, measured)) in enumerate(present.items()):
        inside = fits_blocks(galaxies, frame, records[name], f"fits-{number}", budget)
        panel = rows.describe(galaxies, frame, measured, records[name])
        panel |= {"label": name, "about": _about(records[name]), "recipe": rows.recipe(galaxies, frame, records[name])}
        panel |= {"fits": len(inside), "why": _why_no_fits(frame, len(inside), len(galaxies))}
        panels.append(panel)
        grids.append(_grid(number, name, galaxies, frame))
        files_inside += inside
    first = next(iter(present.values()))[1]
    data = {"questions": rows.tree(first.labels), "numbers": rows.number_names(), "panels": panels}
    style, script = _asset("page.css"), _asset("page.js")
    return fill(
        _asset("page.html"),
        {
            "policy": policy(script, style),
            "title": html.escape(title),
            "lede": html.escape(_lede(present)),
            "style": style,
            "script": script,
            "summary": _summary(summary),
            "notes": "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes),
            "figures": _figures(figures),
            "grids": "".join(grids),
            "count": str(len(present)),
            "footer": _footer(present, records, panels),
            "data": embedded(data),
            "fits": "\n".join(files_inside),
        },
    )


def fill(template: str, values: Mapping[str, str]) -> str:
    """Puts values where the template says {{name}}, in one pass: what a value holds is never read as template."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def policy(script: str, style: str) -> str:
    """The content security policy of a page with exactly this script and this style."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return f"default-src 'none'; img-src data:; style-src {source(style)}; script-src {source(script)}; base-uri 'none'; form-action 'none'"


def embedded(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def stamps(galaxies: Galaxies, frame: Frame) -> list[str]:
    """A PNG data URI of each galaxy, one picture pixel a pixel."""
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise Unavailable("the gallery's pictures need Pillow; pip install 'galaxysd[data]'") from error
    found = []
    for picture in transforms.pictures(galaxies.images, frame).numpy():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG", optimize=True)
        found.append(data_uri(buffer.getvalue()))
    return found


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def fits_blocks(galaxies: Galaxies, frame: Frame, provenance: Mapping[str, Any], name: str, budget: int) -> list[str]:
    """A data block for the FITS file of each galaxy, gzipped, base64, until `budget` characters are used up; none of display colour."""
    blocks: list[str] = []
    if frame.kind != "flux":
        return blocks
    for row in range(len(galaxies)):
        packed = gzip.compress(writers.fits_bytes(galaxies, row, frame, dict(provenance)), 6, mtime=0)
        text = base64.b64encode(packed).decode()
        budget -= len(text)
        if budget < 0:
            break
        blocks.append(f'<script type="application/gzip" id="{name}-{row}">{text}</script>')
    return blocks


def _why_no_fits(frame: Frame, inside: int, galaxies: int) -> str:
    if frame.kind != "flux":
        return "Display colour only: there is no calibrated flux to put into a FITS file."
    if inside < galaxies:
        return f"The FITS files of the first {inside} of {galaxies} galaxies are in the page; a lower --limit makes room for all."
    return ""


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def _lede(present: Mapping[str, Batch]) -> str:
    counts = " beside ".join(f"{len(galaxies)} {name}" for name, (galaxies, _, _) in present.items())
    frame = next(iter(present.values()))[1]
    what = f"{' '.join(frame.bands)} flux" if frame.kind == "flux" else "display colour"
    scale = f" at {frame.pixel_scale:.3g} arcsec per pixel" if frame.pixel_scale else ""
    return f"{counts} galaxies, {frame.size} × {frame.size} pixels of {what}{scale}"


def _about(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The set's provenance as words, for the card and the footer."""
    return {str(name): value if isinstance(value, str) else json.dumps(value, default=str) for name, value in provenance.items()}


def _grid(number: int, name: str, galaxies: Galaxies, frame: Frame) -> str:
    side = frame.size
    items = "".join(
        f'<li><button class="stamp" id="g-{number}-{row}" data-panel="{number}" data-row="{row}" aria-label="{html.escape(galaxy)}">'
        f'<img src="{uri}" alt="" width="{side}" height="{side}" decoding="async"></button></li>\n'
        for row, (galaxy, uri) in enumerate(zip(galaxies.ids, stamps(galaxies, frame), strict=True))
    )
    label = html.escape(_title(name))
    return (
        f'<section class="panel" data-panel="{number}" aria-labelledby="panel-{number}">\n'
        f'<h2 id="panel-{number}"><span class="dot"></span>{label} <small class="shown">{len(galaxies)}</small></h2>\n'
        f'<ul class="grid" aria-label="{label} galaxies">\n{items}</ul>\n'
        '<p class="empty" hidden>None here with this answer.</p>\n</section>\n'
    )


def _summary(lines: Sequence[tuple[str, str]]) -> str:
    if not lines:
        return ""
    items = "".join(f"<div><dt>{html.escape(what)}</dt><dd>{html.escape(found)}</dd></div>\n" for what, found in lines)
    return f'<dl class="summary">\n{items}</dl>'


def _figures(figures: Sequence[tuple[str, bytes]]) -> str:
    if not figures:
        return ""
    items = []
    for caption, png in figures:
        width, height = png_size(png, caption)
        classes = ("pixels " if width < SMALL_FIGURE else "") + ("wide" if width > 2.5 * height else "")
        text = html.escape(caption)
        items.append(
            f'<figure class="{classes.strip()}"><img src="{data_uri(png)}" alt="{text}" width="{width}" height="{height}">'
            f"<figcaption>{text}</figcaption></figure>\n"
        )
    return f'<section class="figures" aria-label="Figures">\n{"".join(items)}</section>'


def png_size(png: bytes, what: str) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    if len(png) < 24 or png[:8] != b"\x89PNG\r\n\x1a\n":
        raise BadInput(f"figure {what!r}: not a PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _footer(present: Mapping[str, Batch], records: Mapping[str, Mapping[str, Any]], panels: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for (name, (galaxies, _, measured)), panel in zip(present.items(), panels, strict=True):
        about = "".join(f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd></div>" for key, value in panel["about"].items())
        again = "<p>One of them again, with its index for INDEX:</p>"
        recipe = f"{again}<pre><code>{html.escape(panel['recipe'])}</code></pre>" if panel["recipe"] else ""
        why = f"<p>{html.escape(panel['why'])}</p>" if panel["why"] else ""
        votes = "" if measured is None else " Measured votes are a network's estimate of what volunteers would answer."
        words = WHAT[rows.kind(galaxies, records[name])]
        parts.append(
            f'<section><h2>{html.escape(_title(name))}</h2><p>{words}{votes}</p>{why}<dl class="about">{about}</dl>{recipe}</section>\n'
        )
    made = f"Written by galaxysd {html.escape(__version__)}. Everything is inside this page; it sends nothing and asks for nothing."
    return f'<div class="origins">\n{"".join(parts)}</div>\n<p class="made">{made}</p>'
