"""The page in a real browser: upload, refusals, keyboard, widths; nothing is asked of another host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
WIDTHS_PX = (1400, 900, 390)


class Seen:
    """The page, what it asked for, and what it complained of."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.requests, self.complaints = page, [], []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)

    def choose(self, path: Path) -> None:
        self.page.set_input_files("#file", path)

    def refusal(self) -> str:
        self.page.wait_for_selector("#refused:not([hidden])")
        return self.page.inner_text("#refused")

    def overflow_px(self) -> int:
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture
def seen(browser: Any, serving: Any) -> Iterator[Seen]:
    page = browser.new_page()
    found = Seen(page, serving.url)
    yield found
    hosts = {urlsplit(url).netloc for url in found.requests if not url.startswith(("data:", "blob:"))}
    page.close()
    assert hosts == {urlsplit(serving.url).netloc}


def test_an_image_is_shown_with_its_classes_at_every_width(seen: Seen, serving: Any) -> None:
    seen.choose(serving.photos / "a.png")
    seen.page.wait_for_selector("#result:not([hidden])")
    assert seen.page.inner_text("#caption") == "a.png, 90 x 70 px"
    assert seen.page.inner_text("#said").startswith("a.png: 2 of 3 classes seen.")
    assert seen.page.locator("#areas th").all_inner_texts() == ["Paper", "Background"]
    assert "Glass" in seen.page.inner_text("#absent")
    assert "ms" in seen.page.inner_text("#times")
    for width in WIDTHS_PX:
        seen.page.set_viewport_size({"width": width, "height": 900})
        assert seen.overflow_px() == 0, width
    assert seen.complaints == []


def test_the_keyboard_is_enough(seen: Seen, serving: Any) -> None:
    with seen.page.expect_file_chooser() as chooser:
        for _ in range(10):
            seen.page.keyboard.press("Tab")
            if seen.page.evaluate("document.activeElement.id") == "file":
                break
        seen.page.keyboard.press("Enter")
    chooser.value.set_files(serving.photos / "a.png")
    seen.page.wait_for_selector("#result:not([hidden])")
    overlay = seen.page.get_attribute("#picture", "src")
    seen.page.focus("input[value=overlay]")
    seen.page.keyboard.press("ArrowRight")
    seen.page.keyboard.press("ArrowRight")
    mask = seen.page.get_attribute("#picture", "src")
    assert mask.startswith("data:image/png")
    assert mask != overlay
    assert seen.page.evaluate("document.getElementById('picture').naturalWidth") == 90


def test_a_dropped_file_is_sent(seen: Seen, serving: Any) -> None:
    seen.page.evaluate(
        """bytes => {
            const given = new DataTransfer();
            given.items.add(new File([new Uint8Array(bytes)], "dropped.png"));
            const event = new DragEvent("drop", { dataTransfer: given, bubbles: true });
            document.getElementById("drop").dispatchEvent(event);
        }""",
        list((serving.photos / "a.png").read_bytes()),
    )
    seen.page.wait_for_selector("#result:not([hidden])")
    assert seen.page.inner_text("#caption") == "dropped.png, 90 x 70 px"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("large.bin", "large.bin: a file must have at most 1 MiB\n\nGot 2.0 MiB. What to do: save it smaller"),
        ("cut.png", "cut.png: a file must be a whole image of 8 bits a channel\n\nGot cannot be decoded"),
        ("notes.txt", "notes.txt: a file must be one of JPEG, PNG,"),
        ("wide.png", "wide.png: an image must have at most 0.02 megapixels\n\nGot 300 x 200 pixels. What to do"),
    ],
)
def test_what_is_refused_is_told(seen: Seen, tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise[:100, :100]).save(tmp_path / "whole.png")
    Image.fromarray(noise).save(tmp_path / "wide.png")
    contents = {
        "large.bin": bytes(2 * 2**20),
        "cut.png": (tmp_path / "whole.png").read_bytes()[:9000],
        "notes.txt": b"no image",
    }
    if name in contents:
        path.write_bytes(contents[name])
    seen.choose(path)
    assert seen.refusal().startswith(said)
    assert seen.page.is_hidden("#result")
    assert all("status of 4" in one for one in seen.complaints)  # the browser's own line on a refused request


def test_names_are_shown_as_text(seen: Seen, tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.txt"
    path.write_bytes(b"no image")
    seen.choose(path)
    assert seen.refusal().startswith("<img src=x onerror=alert(1)>.txt: a file must be one of")
