"""The pages that `tasks.analyze` leaves, in a real browser: what a person sees, types and hears.

A page may neither complain nor ask for anything that is not a file.
"""

import json
import re

import numpy as np
import polars as pl
import pytest

from cbmr.analysis import Card, Selectivity, UnitList, groups_of, write_map, write_units
from cbmr.sources.tables import read_corpus
from tests.conftest import HOSTILE, make_tables, write_corpus


@pytest.fixture
def opened(browser):
    """Opens a page; at the end, nothing was complained of and nothing but files asked for."""
    contexts, complaints, asked = [], [], []

    def open_page(path, **options):
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
    assert asked and all(url.startswith("file://") for url in asked)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Fourteen tracks of 4 s, one with a title that would break out of a page, one no audio."""
    folder = tmp_path_factory.mktemp("pages") / "a corpus #1 100%"
    tracks = make_tables()["tracks"].with_columns(
        title=pl.Series([HOSTILE, *(f"Title {row}" for row in range(1, 14))]),
        style=pl.Series(["low", "high"] * 7),
    )
    write_corpus(folder, tracks=tracks)
    (folder / "audio/t5.wav").write_bytes(b"no audio")
    return read_corpus(folder)


@pytest.fixture(scope="module")
def map_file(corpus):
    """Tracks on a line, t0 leftmost, t13 rightmost; in a second layout the other way round."""
    rows = np.arange(14)
    line = np.stack([np.linspace(-1, 1, 14), np.zeros(14)], axis=1)
    file = corpus.folder.parent / "run/analysis/map.html"
    write_map(file, corpus, rows, {"factors": line, "usage": -line}, groups_of(corpus, rows))
    return file


def at_track(page, row, tracks=14):
    """Where a track of the line is on the screen."""
    box = page.locator("#map").bounding_box()
    x = box["x"] + box["width"] * (0.5 + 0.47 * (2 * row / (tracks - 1) - 1))
    return x, box["y"] + box["height"] / 2


def hears(page, after):
    """That the player gets beyond a moment, in seconds."""
    page.wait_for_function(
        "after => { const a = document.querySelector('audio'); return a && a.currentTime > after }",
        arg=after,
    )
    return page.evaluate("document.querySelector('audio').currentTime")


def test_hovering_names_a_track_and_a_click_plays_its_middle(opened, map_file):
    page = opened(map_file)
    assert page.locator("audio").count() == 0
    page.mouse.move(*at_track(page, 3))
    assert page.locator("#hover").inner_text() == "artist 3 – Title 3\nstyle: high"
    page.mouse.click(*at_track(page, 3))
    assert 2 < hears(page, 2.2) < 4
    assert page.locator("audio").get_attribute("src").endswith("t3.wav#t=2.00")
    assert page.locator("#said").inner_text() == "artist 3 – Title 3, from 0:02 on"
    page.mouse.click(*at_track(page, 4))
    hears(page, 2.2)
    assert page.locator("audio").count() == 1
    page.mouse.move(*at_track(page, 3.5))
    assert page.locator("#hover").is_hidden()


def test_a_title_cannot_break_the_page(opened, map_file):
    page = opened(map_file)
    page.mouse.move(*at_track(page, 0))
    assert page.locator("#hover").text_content().startswith(f"artist 0 – {HOSTILE}")
    assert page.locator("#evil").count() == 0
    text = map_file.read_text()
    held = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert json.loads(held)["title"][0] == HOSTILE
    assert "http" not in text


def test_search_finds_and_colours_are_chosen(opened, map_file):
    page = opened(map_file)
    assert page.locator("#count").inner_text() == "14 tracks"
    page.locator("#query").fill("TÍTLE newcómer")  # words in any order, case and accents
    names = page.locator("#found button").all_inner_texts()
    assert names == ["newcomer – Title 12", "newcomer – Title 13"]
    assert page.locator("#count").inner_text() == "2 of 14 tracks"
    page.mouse.move(*at_track(page, 3))  # not among those found
    assert page.locator("#hover").is_hidden()
    page.locator("#found button").nth(1).click()
    assert "Title 13" in page.locator("#said").inner_text()
    page.locator("#query").fill("")
    assert page.locator("#legend button").all_inner_texts() == ["high\n7", "low\n7"]
    page.locator("#colour").select_option("split")
    assert page.locator("#legend-title").inner_text() == "By split"
    assert len(page.locator("#legend button").all()) == 3
    page.locator("#legend button").first.click()
    assert page.locator("#legend button").first.get_attribute("aria-pressed") == "true"


def test_layouts_change_and_the_keyboard_is_enough(opened, map_file):
    page = opened(map_file)
    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")  # the first goes to what is nearest to the middle
    first = page.locator("#chosen").inner_text()
    page.keyboard.press("ArrowRight")
    second = page.locator("#chosen").inner_text()
    number = [int(re.search(r"Title (\d+)", text)[1]) for text in (first, second)]
    assert number[0] in (6, 7) and number[1] == number[0] + 1
    page.keyboard.press("Enter")
    hears(page, 2.1)
    page.locator("#layout").select_option("usage")
    page.mouse.move(*at_track(page, 1))
    assert "Title 12" in page.locator("#hover").inner_text()
    page.locator("#in").click()
    page.locator("#all").click()
    page.mouse.move(*at_track(page, 1))
    assert "Title 12" in page.locator("#hover").inner_text()


def test_what_cannot_be_played_is_said(opened, map_file):
    page = opened(map_file)
    page.mouse.click(*at_track(page, 5))
    page.wait_for_function("document.getElementById('said').textContent.includes('cannot play')")
    said = page.locator("#said").inner_text()
    assert said == (
        "artist 1 – Title 5: this browser cannot play ../../a corpus #1 100%/audio/t5.wav"
    )


@pytest.mark.parametrize("scheme, paper", [("light", (255, 255, 255)), ("dark", (21, 23, 26))])
def test_it_is_light_or_dark_as_the_reader_has_it(opened, map_file, scheme, paper):
    page = opened(map_file, color_scheme=scheme)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == f"rgb{paper}"


@pytest.fixture(scope="module")
def units_file(corpus):
    """Two units of the first layer, with a filter, and one that hears clips as a whole."""

    def a_list(by, rows, moments_s):
        common = (Selectivity("style", HOSTILE, 0.75, 0.1),)
        return UnitList(
            by, np.array(rows), np.linspace(2, 1, len(rows)), np.array(moments_s), common
        )

    lists = (a_list("maximum", [0, 3, 5], [0.5, 3.25, 0]), a_list("mean", [7, 3], [1, 3.25]))
    whole = (a_list("activation", [9, 2], [np.nan] * 2),)
    drawn, none = np.array([[-1, 0.5], [np.nan, 0]]), np.empty(0, dtype=np.int64)
    file = corpus.folder.parent / "run/analysis/units.html"
    cards = [
        Card("convolution1", 14, drawn, drawn[:1], 0.35, lists),
        Card("convolution1", 2, drawn, None, np.nan, whole),
        Card("dense2", 1900, None, None, np.nan, whole),
        Card("dense2", 7, None, None, np.nan, (UnitList("activation", none, none, none, ()),)),
    ]
    write_units(file, corpus, cards)
    return file


def test_a_unit_has_its_pictures_its_tracks_and_what_they_share(opened, units_file):
    page = opened(units_file)
    card = page.locator("section").first
    assert card.locator("h2").inner_text() == "convolution1, unit 14"
    assert card.locator("canvas").count() == 2
    pixels = card.locator("canvas").first.evaluate(
        "c => Array.from(c.getContext('2d').getImageData(0, 0, 2, 2).data)"
    )
    red, half_blue, line, white = np.array(pixels).reshape(4, 4)[:, :3].tolist()
    assert (red, line, white) == ([214, 0, 28], [110, 0, 16], [255, 255, 255])
    assert half_blue == [133, 164, 220]  # half way from white
    assert (
        card.locator(".list p").first.inner_text() == f"75 % {HOSTILE} (style; 10 % of all tracks)"
    )
    entries = card.locator(".list").first.locator(".play").all_inner_texts()
    assert [text.split("\n")[0] for text in entries] == ["▶ 0:00", "▶ 0:03", "▶ 0:00"]
    assert page.locator("#evil").count() == 0


def test_a_click_plays_the_moment_of_the_peak(opened, units_file):
    page = opened(units_file)
    assert page.locator("audio").count() == 0
    page.locator(".play").nth(1).click()
    assert 3.25 < hears(page, 3.3) < 4.1
    assert page.locator(".play").nth(1).get_attribute("aria-current") == "true"
    page.locator(".play").nth(2).click()
    page.wait_for_function("document.getElementById('said').textContent.includes('cannot play')")


def test_layers_are_chosen_and_units_found(opened, units_file):
    page = opened(units_file)
    assert page.locator("#count").inner_text() == "2 units"
    page.locator("#query").fill("title 7")
    assert page.locator("h2").all_inner_texts() == ["convolution1, unit 14"]
    page.locator("#query").fill("")
    page.locator("#layer").select_option("dense2")
    assert page.locator("h2").all_inner_texts() == ["dense2, unit 1900", "dense2, unit 7"]
    assert "silent on every track" in page.locator("section").nth(1).inner_text()
    page.locator(".play").first.focus()
    page.keyboard.press("Enter")  # a clip that is heard as a whole is played from its middle
    hears(page, 2.1)
