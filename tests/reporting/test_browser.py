"""Reports in a real browser: they load, ask for nothing, fit the screen, and their tables sort."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_support import FOUND, Browser, browser
from report_support import audit_file, make_run

from dp_diffusers.reporting import report

pytestmark = pytest.mark.skipif(FOUND is None, reason="Chromium is absent: apt-get install chromium")
PAGES = ("release", "owner", "several")
TABLE = "document.querySelectorAll('table.sortable')[0]"
CLICK = f"{TABLE}.tHead.rows[0].cells[1].querySelector('button').click()"
COLUMN = f"[...{TABLE}.tBodies[0].rows].map(row => row.cells[1].textContent)"


@pytest.fixture(scope="module")
def pages(shown: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    other = make_run(folder / "other", private=False, names=("plain", "b"))
    return {
        "release": shown / "release" / "report.html",
        "owner": report(shown, out=folder / "owner.html", audit=audit_file(folder / "audit")),
        "several": report(shown, other, out=folder / "several.html"),
    }


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_alone_and_fits(tab: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    tab.open(pages[name], width=width)
    assert tab.complaints() == []
    assert tab.requests() == [pages[name].resolve().as_uri()]
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.images.length") > 0
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_tables_sort_both_ways_by_number_and_say_so(tab: Browser, pages: dict[str, Path]) -> None:
    tab.open(pages["owner"], width=1440)
    for expected, state in (
        (["80.5", "91.2", "97.5"], "ascending"),
        (["97.5", "91.2", "80.5"], "descending"),
    ):
        tab.evaluate(CLICK)
        assert tab.evaluate(COLUMN) == expected
        assert tab.evaluate(f"{TABLE}.tHead.rows[0].cells[1].ariaSort") == state


def test_a_page_follows_the_colours_of_the_screen(tab: Browser, pages: dict[str, Path]) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        tab.open(pages["release"], width=1440, scheme=scheme)
        shades[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert shades == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}


def test_the_keyboard_reaches_the_content_first_and_then_every_table(
    tab: Browser, pages: dict[str, Path]
) -> None:
    tab.open(pages["release"], width=1440)
    for kind in ("keyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert tab.evaluate("document.activeElement.getAttribute('href')") == "#main"
    heads = "document.querySelectorAll('table.sortable thead th{}').length"
    assert tab.evaluate(heads.format(" button")) == tab.evaluate(heads.format("")) > 0


@pytest.mark.slow
def test_details_are_open_on_paper(tab: Browser, pages: dict[str, Path]) -> None:
    tab.open(pages["release"], width=1440)
    opened = "[...document.querySelectorAll('details')].map(each => each.open)"
    assert not any(tab.evaluate(opened))
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert all(tab.evaluate(opened))


@pytest.mark.slow
@pytest.mark.planted
def test_planted_requests_and_errors_are_seen(tab: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    text = pages["release"].read_text()
    bad = tmp_path / "bad.html"
    bad.write_text(text.replace("</main>", '<img src="https://example.org/x.png"><script>1</script></main>'))
    tab.open(bad, width=1440)
    assert tab.complaints()  # the page's own policy stops both
    bad.write_text(
        text.replace('http-equiv="Content-Security-Policy"', 'name="x"').replace(
            "</main>", '<img src="x.png" style="min-width: 2000px"></main>'
        )
    )
    tab.open(bad, width=1440)
    assert len(tab.requests()) == 2
    assert tab.evaluate("document.documentElement.scrollWidth") > 1440
