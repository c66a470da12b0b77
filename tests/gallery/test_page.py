"""The page: it asks nobody for anything, runs nothing but its own script, and holds the very pixels and flux of the galaxies."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from PIL import Image

from galaxysd.data import transforms
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import GZ2, SCHEMAS
from galaxysd.errors import BadInput, GalaxySDError
from galaxysd.gallery import page

Make = Callable[..., Galaxies]
HOSTILE = "</script><img src=x onerror=alert(1)><!-- \u2028 '\" &lt; {{script}} <script>"
PROVENANCE = {"generated": {"made_by": "galaxysd sample", "seed": 3, "model": "smoke-32"}, "simulated": {"seed": 1, "is_synthetic": True}}


class Parsed(HTMLParser):
    """Elements with their attributes, the text of scripts and styles, and all other text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in ("script", "style") and self.cdata_elem:
            tag, attributes, before = self.raw[-1]
            self.raw[-1] = (tag, attributes, before + data)
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self) -> Any:
        return json.loads(next(text for _, attributes, text in self.raw if attributes.get("id") == "data"))

    def fits(self, name: str) -> bytes:
        return gzip.decompress(base64.b64decode(next(text for _, attributes, text in self.raw if attributes.get("id") == name)))


@pytest.fixture
def both(galaxies: Make, frame: Frame) -> dict[str, page.Batch | None]:
    new, old = galaxies(5, generated=True), galaxies(4, seed=9)
    return {"generated": (new, frame, GZ2.fractions(new.cond_counts + 1)), "simulated": (old, frame, None)}


def test_nothing_can_run_or_be_fetched_but_the_page_itself(both: dict[str, page.Batch | None]) -> None:
    text = page.build(both, "Two sets", provenance=PROVENANCE)
    parsed = Parsed(text)
    rules = dict(rule.split(" ", 1) for rule in str(parsed.all("meta")[1]["content"]).split("; "))
    assert parsed.all("meta")[1]["http-equiv"] == "Content-Security-Policy"
    assert text.index("Content-Security-Policy") < text.index("<style")
    running = {"style": [], "script": []}
    for tag, attributes, content in parsed.raw:
        if "type" not in attributes:
            running[tag].append(f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'")
    assert len(running["style"]) == len(running["script"]) == 1
    assert rules == {
        "default-src": "'none'", "img-src": "data:", "style-src": running["style"][0], "script-src": running["script"][0],
        "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip
    assert not re.search(r"https?:|//\w+\.\w|url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|innerHTML", text)
    for tag, attributes in parsed.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, name)
    assert [each["href"] for each in parsed.all("link")] == ["data:,"], "a browser would ask the server for favicon.ico"


def test_what_a_set_says_stays_text(both: dict[str, page.Batch | None], frame: Frame) -> None:
    clean = Parsed(page.build(both, "x", [("a", "b")], [("c", _png(8, 4))], PROVENANCE, ["n"]))
    batch = both["simulated"]
    assert batch is not None
    batch[0].ids[1] = HOSTILE
    batch[0].extra = {HOSTILE: [HOSTILE] * 4}
    wild = {**PROVENANCE, "simulated": {"seed": 1, HOSTILE: HOSTILE, "made_by": HOSTILE, "deep": {HOSTILE: [HOSTILE]}}}
    text = page.build(both, HOSTILE, [(HOSTILE, HOSTILE)], [(HOSTILE, _png(8, 4))], wild, [HOSTILE])
    parsed = Parsed(text)
    inside = text.partition('id="data">')[2].partition("</script>")[0]
    assert not set("<>&\u2028") & set(inside), "a script element may end at more than one spelling"
    assert parsed.all("title") == [{}]
    assert parsed.text.count(HOSTILE) >= 7
    assert len(parsed.all("img")) == len(clean.all("img"))
    assert len(parsed.all("script")) == len(clean.all("script"))
    assert [content for _, attributes, content in parsed.raw if "type" not in attributes] == [
        content for _, attributes, content in clean.raw if "type" not in attributes
    ]
    row = parsed.data["panels"][1]["rows"][1]
    assert row["id"] == HOSTILE
    assert row["extra"] == {HOSTILE: HOSTILE}
    assert parsed.data["panels"][1]["about"]["made_by"] == HOSTILE
    button = next(each for each in parsed.all("button") if each.get("id") == "g-1-1")
    assert button["aria-label"] == HOSTILE
    assert fits.getheader(io.BytesIO(parsed.fits("fits-1-1")), 0)["SYNTHET"]


def test_fits_and_pictures_inside_are_those_of_the_galaxies(both: dict[str, page.Batch | None], frame: Frame) -> None:
    parsed = Parsed(page.build(both, "x", provenance=PROVENANCE))
    stamps = [each for each in parsed.all("img") if str(each.get("src")).startswith("data:image/png") and each.get("decoding")]
    expected = []
    for number, batch in enumerate(both.values()):
        assert batch is not None
        pictures = transforms.pictures(batch[0].images, frame)
        for row, name in enumerate(batch[0].ids):
            with fits.open(io.BytesIO(parsed.fits(f"fits-{number}-{row}")), checksum=True) as hdus:
                flux = np.stack([hdus[band].data for band in frame.bands])
                assert hdus[0].header["OBJECT"] == name
            assert flux.astype("<f4").tobytes() == batch[0].images[row].numpy().tobytes()
            expected.append(pictures[row].numpy())
    assert len(stamps) == len(expected) == 9
    for stamp, picture in zip(stamps, expected, strict=True):
        png = base64.b64decode(str(stamp["src"]).partition(",")[2])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), picture)


def test_the_filter_reads_the_leading_requested_answers(both: dict[str, page.Batch | None]) -> None:
    data = Parsed(page.build(both, "x", provenance=PROVENANCE)).data
    assert [question["name"] for question in data["questions"]] == [q.name.replace("-", " ") for q in GZ2.questions]
    new, old = both["generated"], both["simulated"]
    assert new is not None
    assert old is not None
    assert [row["lead"] for row in data["panels"][0]["rows"]] == GZ2.leading(new[0].cond_counts).tolist()
    assert [row["lead"] for row in data["panels"][1]["rows"]] == GZ2.leading(old[0].counts).tolist()
    assert [(panel["label"], panel["words"], panel["measured"]) for panel in data["panels"]] == [
        ("generated", "requested", True),
        ("simulated", "volunteers", False),
    ]


def test_the_script_finds_every_element_it_names(both: dict[str, page.Batch | None]) -> None:
    parsed = Parsed(page.build(both, "x"))
    there = {attributes["id"] for _, attributes in parsed.elements if "id" in attributes}
    wanted = set(re.findall(r'byId\("([\w-]+)"\)', page._asset("page.js")))
    assert len(wanted) > 10
    assert wanted <= there
    assert there >= {f"g-{p}-{r}" for p, n in ((0, 5), (1, 4)) for r in range(n)}


def test_summary_and_notes_come_before_the_galaxies_and_figures_after_them(both: dict[str, page.Batch | None]) -> None:
    figures = [("a sweep", _png(300, 30)), ("a plot", _png(900, 600))]
    text = page.build(both, "First light", [("classes found", "0.87, N 200")], figures, None, ["No judge."])
    parsed = Parsed(text)
    assert [(each["class"]) for each in parsed.all("figure")] == ["pixels wide", ""]
    for word in ("First light", "classes found", "0.87, N 200", "No judge."):
        assert text.index(word) < text.index('class="stamp"')
    for word in ("a sweep", "a plot"):
        assert text.index(word) > text.rindex('class="stamp"')
        assert word in parsed.text


def test_the_same_galaxies_make_the_same_page(both: dict[str, page.Batch | None]) -> None:
    assert page.build(both, "x", provenance=PROVENANCE) == page.build(both, "x", provenance=PROVENANCE)


def test_one_set_alone_is_enough(both: dict[str, page.Batch | None]) -> None:
    parsed = Parsed(page.build({**both, "simulated": None}, "x"))
    assert len(parsed.data["panels"]) == 1
    assert any("panels-1" in str(each.get("class")) for each in parsed.all("main"))


def test_what_does_not_fit_is_said(both: dict[str, page.Batch | None], monkeypatch: pytest.MonkeyPatch) -> None:
    one = len(page.fits_blocks(*both["generated"][:2], {}, "fits-0", 1 << 30)[0])  # type: ignore[index]
    monkeypatch.setattr(page, "FITS_BUDGET", 5 * one)
    parsed = Parsed(page.build(both, "x"))
    inside = [sum(str(each.get("id")).startswith(f"fits-{p}-") for each in parsed.all("script")) for p in (0, 1)]
    assert inside == [panel["fits"] for panel in parsed.data["panels"]]
    assert 0 < inside[0] < 5
    assert f"The FITS files of the first {inside[0]} of 5 galaxies are in the page" in parsed.text


def test_display_colour_has_no_fits_and_says_so(galaxies: Make, frame: Frame) -> None:
    batch = galaxies(2)
    batch.images = (batch.images.clamp(0, 1) * 255).to(torch.uint8)
    parsed = Parsed(page.build({"observed": (batch, Frame("rgb", 16), None)}, "x", provenance={"observed": {"is_synthetic": False}}))
    assert parsed.data["panels"][0]["fits"] == 0
    assert "no calibrated flux" in parsed.text
    assert "Images of a survey" in parsed.text


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(GalaxySDError, match="no galaxies to show"):
        page.build({"generated": None}, "x")


def test_sets_of_different_questions_are_not_put_side_by_side(galaxies: Make, frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEMAS, "other", replace(GZ2, name="other"))
    pair = {"a": (galaxies(1), frame, None), "b": (galaxies(1), replace(frame, schema="other"), None)}
    with pytest.raises(BadInput, match="label schemas gz2 and other"):
        page.build(pair, "x")


def test_a_figure_is_a_png(both: dict[str, page.Batch | None]) -> None:
    with pytest.raises(BadInput, match="figure 'plot': not a PNG"):
        page.build(both, "x", figures=[("plot", b"<svg onload=alert(1)>")])


def _png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()
