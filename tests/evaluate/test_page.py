from __future__ import annotations

from html.parser import HTMLParser

from galaxysd.evaluate.page import html

TEXT = """# SET against DATA

- FAILS: brightness.
- 3 < 5 & more

Made by `galaxysd evaluate "a<b"`.

## A table

| name | value |
| --- | --- |
| r50 | 1.5 |
|  | 2 |

![planes](planes.png)
"""


class Reader(HTMLParser):
    """Collects text by tag, and checks that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: dict[str, list[str]] = {}
        self.images: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.found.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_the_page_says_what_the_text_says_and_stands_alone() -> None:
    page = html(TEXT, {"planes.png": b"\x89PNG"})
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.found["h1"] == reader.found["title"] == ["SET against DATA"]
    assert reader.found["li"] == ["FAILS: brightness.", "3 < 5 & more"]
    assert reader.found["code"] == ['galaxysd evaluate "a<b"']
    assert reader.found["th"] == ["name", "value"]
    assert reader.found["td"] == ["r50", "1.5", "2"]
    assert reader.images == ["data:image/png;base64,iVBORw=="]
    assert "http" not in page
    assert "<script" not in page
