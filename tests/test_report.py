"""The report: its numbers against plain loops, its page in a real browser, on a whole run."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import tasks.factorize
from cbmr.corpus import make_corpus
from cbmr.factors import factorize, unit_rows
from cbmr.report import held_out_fit, typical_tracks
from cbmr.report.findings import curves, evaluation_rows
from tasks import analyze, evaluate, index, regress, report, scan, update
from tests.conftest import FACTORS, HOSTILE, make_tables, write_corpus
from tests.test_training import ENCODER, TINY, run_task
from tests.test_update import write_encoder, write_music

# --- findings -----------------------------------------------------------------------------------

MODEL = {"regularization": 2.0, "alpha": 2.0, "eps": 1e-6}


def test_curves_are_by_epoch_and_the_later_of_two_numbers_counts(tmp_path):
    """Epoch 2 is there twice, epoch 1 in a log from before an interruption too; a loss that was
    infinite is no point."""
    (tmp_path / "metrics-1.csv").write_text("epoch,step,train/loss\n0,5,7.5\n")
    (tmp_path / "metrics-2.csv").write_text("epoch,step,train/loss\n0,5,8.5\n2,9,1.5\n")
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,train/loss,valid/auc\n"
        "0,5,,0.6\n0,5,3.5,\n1,9,,0.5\n1,9,9.0,\n1,9,,0.7\n1,9,2.5,\n2,9,inf,\n"
    )
    found = {curve.name: curve.points for curve in curves(tmp_path)}
    losses = (1, 3.5), (2, 2.5), (3, 1.5)
    assert found == {"train/loss": losses, "valid/auc": ((1, 0.6), (2, 0.7))}


def test_the_evaluations_numbers_become_rows_again():
    numbers = {
        "test / new artist / artist mean + ridge / AUC": 0.7,
        "test / new artist / artist mean + ridge / AUC low": 0.6,
        "test / new artist / artist mean + ridge / AUC high": 0.8,
        "few plays / k": 3.0,
        "test / few plays / blend - CF alone / AUC at 3": 0.1,
    }
    first, second = evaluation_rows(numbers)
    assert (first.split, first.column, first.row) == ("test", "new artist", "artist mean + ridge")
    assert first.cells == {"AUC": (0.7, 0.6, 0.8)}
    assert (second.column, second.row) == ("few plays", "blend - CF alone")
    assert second.cells == {"AUC at 3": (0.1, 0.1, 0.1)}


def test_the_typical_track_is_nearest_to_the_mean_of_its_group():
    """(1, 0), (.6, .8) and (0, 1) have the mean (.53, .6), to which the second is the nearest; the
    group of one has itself; who is in none is asked for by nobody."""
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1], [1, 0], [0, 1]])
    groups = np.array(["b", "b", "b", "a", ""])
    assert typical_tracks(vectors, groups, 2) == [1, 3]
    assert typical_tracks(vectors, groups, 1) == [1]


@pytest.fixture(scope="module")
def world():
    """Sixty listeners of two camps, sixteen training tracks and six held-out ones; of the last,
    fewer than enough listeners."""
    rng = np.random.default_rng(0)
    split = ["train"] * 16 + ["valid", "test"] * 3
    plays = [
        (f"u{user}", f"t{track}", int(rng.integers(1, 9)))
        for user in range(60)
        for track in range(22)
        if track % 2 == user % 2 and rng.random() < 0.8 and (track < 21 or user < 12)
    ]
    corpus = make_corpus(
        Path(),
        pl.DataFrame({"track_id": [f"t{n}" for n in range(22)], "path": "x", "split": split}),
        pl.DataFrame(plays, ["user_id", "track_id", "count"], orient="row"),
    )
    training = corpus.plays
    inside = training.track < 16
    fitted = factorize(
        type(training)(training.user[inside], training.track[inside], training.count[inside]),
        corpus.track_ids, corpus.user_ids, size=3, report=lambda text: None, **MODEL,
    )  # fmt: skip
    return corpus, fitted


def test_the_fit_is_the_cosine_to_what_listeners_say_of_a_track(world):
    """A prediction that is a track's folded-in factor has the cosine 1; the closed form is solved
    again here, listener by listener."""
    corpus, fitted = world
    users = fitted.user_factors.astype(float)
    folded = np.zeros((22, 3))
    for track in range(22):
        left = users.T @ users + MODEL["regularization"] * np.eye(3)
        right = np.zeros(3)
        for user, played, count in zip(*vars_of(corpus.plays), strict=True):
            if played == track:
                row = users[fitted.user_ids.tolist().index(corpus.user_ids[user])]
                weight = 1 + MODEL["alpha"] * np.log1p(count / MODEL["eps"])
                left += (weight - 1) * np.outer(row, row)
                right += weight * row
        folded[track] = np.linalg.solve(left, right)
    predicted = unit_rows(folded)
    predicted[17] *= -1
    predicted[18] = 0  # without audio
    fit = held_out_fit(corpus, fitted, predicted, model=MODEL)
    assert fit.rows[0] == 17 and set(fit.rows.tolist()) == {16, 17, 19, 20}
    np.testing.assert_allclose(fit.cosine, [-1, 1, 1, 1], atol=1e-5)
    listeners = np.bincount(corpus.plays.track, minlength=22)
    assert fit.listeners.tolist() == listeners[fit.rows].tolist()
    assert 0 < listeners[21] < 10


def vars_of(plays):
    return plays.user.tolist(), plays.track.tolist(), plays.count.tolist()


# --- the page -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of fourteen tracks, whole but for stage 2; one title would break out of a page."""
    home = tmp_path_factory.mktemp("report")
    title = pl.Series([HOSTILE, "Beyoncé (live)", *(f"Title {row}" for row in range(2, 14))])
    style = pl.Series(["low", "high"] * 7)
    tracks = make_tables()["tracks"].with_columns(title=title, style=style)
    write_corpus(home / "a corpus", tracks=tracks)
    where = home / "a corpus", home / "run"
    run_task(scan, *where, "workers=1")
    run_task(tasks.factorize, *where, *FACTORS)
    run_task(regress, *where, *ENCODER, *TINY)
    run_task(index, *where)
    run_task(evaluate, *where, "bootstraps=3")
    run_task(analyze, *where, "workers=1")
    run_task(report, *where, "n=5")
    return home / "run"


@pytest.fixture
def opened(browser, run):
    """The report in a browser; at the end, nothing was complained of and nothing asked for that is
    not on the disk or in the page."""
    complaints, asked = [], []
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((run / "report.html").as_uri())
    yield page
    page.close()
    assert not complaints
    assert asked and {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}


def test_every_section_is_there(opened):
    titles = opened.locator("h2").all_inner_texts()
    assert titles == [
        "What was trained on what", "Training curves", "Evaluation",
        "What the first layer listens for", "The map", "Sample playlists", "Weaknesses",
        "Find a track", "Not there yet",
    ]  # fmt: skip
    assert opened.locator("nav a").count() == len(titles)
    assert opened.locator("#missing td").all_inner_texts()[0].startswith("python -m tasks.rank ")
    assert opened.locator("#curves .curve").count() == 2
    pictures = "[...document.querySelectorAll('.picture img')].map((one) => one.naturalWidth)"
    assert len(opened.evaluate(pictures)) == 2 and min(opened.evaluate(pictures)) > 300
    opened.locator("#trained summary").first.click()
    shown = opened.locator("#trained").inner_text()
    assert "factors.options.regularization\t1\n" in shown and "training plays" in shown


def test_figures_are_those_of_the_run(opened, run):
    numbers = json.loads((run / "evaluation/metrics.json").read_text())
    table = opened.locator("#evaluation table").first
    row = table.locator("tbody tr", has=opened.get_by_text("stage 1", exact=True))
    value = numbers["test / known artist / stage 1 / AUC"]
    assert row.locator("td").first.text_content().startswith(f"{value:.3f}")
    metrics = json.loads((run / "regress/metrics.json").read_text())
    assert f"parameters\t{metrics['parameters']:,}" in opened.locator("#trained").inner_text()


def test_a_list_plays_and_pauses_by_mouse_and_keyboard(opened):
    assert opened.locator("audio").count() == 0
    button = opened.locator("#lists .play").nth(1)
    button.click()
    opened.wait_for_function("document.querySelector('audio').currentTime > 2.1")
    assert opened.locator("audio").get_attribute("src").endswith("#t=2.00")
    assert button.get_attribute("aria-pressed") == "true"
    button.press("Enter")
    assert opened.evaluate("document.querySelector('audio').paused")
    opened.wait_for_function("document.querySelector('[aria-pressed=true]') === null")
    opened.locator("#weaknesses .play").last.press("Space")
    opened.wait_for_function("!document.querySelector('audio').paused")
    assert opened.locator("audio").count() == 1


def test_search_finds_by_title_and_artist_whatever_case_and_accents(opened):
    box = opened.get_by_label("Title, artist, album or id")
    box.fill("BEYONCE")
    assert opened.locator("#found").inner_text() == "1 of 14 tracks"
    assert "Beyoncé (live)" in opened.locator("#results").inner_text()
    box.fill("newcomer tItle")
    assert opened.locator("#results .play").count() == 2
    opened.locator("#results .play").first.click()
    opened.wait_for_function("document.querySelector('audio').currentTime > 2.1")
    box.fill("nobody")
    assert opened.locator("#found").inner_text() == "0 of 14 tracks"


def test_a_title_cannot_break_the_page(opened):
    opened.get_by_label("Title, artist, album or id").fill("id=evil")
    assert HOSTILE in opened.locator("#results td.name").first.text_content()
    assert opened.locator("#evil").count() == 0


def test_the_map_is_within_the_page_and_plays(opened):
    inside = opened.frame_locator("iframe")
    assert inside.locator("#count").inner_text() == "14 tracks"
    inside.locator("#query").fill("Title 10")
    inside.locator("#found button").first.click()
    frame = opened.frames[1]
    frame.wait_for_function("document.querySelector('audio').currentTime > 2.1")


@pytest.mark.parametrize("scheme, paper", [("light", (255, 255, 255)), ("dark", (21, 23, 26))])
def test_it_is_light_or_dark_as_the_reader_has_it(opened, scheme, paper):
    opened.emulate_media(color_scheme=scheme)
    colour = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == f"rgb{paper}"


def test_a_narrow_window_is_not_overrun(opened):
    opened.set_viewport_size({"width": 400, "height": 700})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 400


def test_a_run_without_plays_has_a_page_of_what_there_is(tmp_path):
    """An encoder from elsewhere over audio alone: no factors, no evaluation, no curves."""
    write_music(tmp_path / "corpus", range(12))
    encoder = write_encoder(tmp_path / "encoder.pt")
    where = tmp_path / "corpus", tmp_path / "run"
    run_task(update, *where, "workers=1", f"encoder_file='{encoder}'")
    run_task(report, *where)
    held = re.search(
        r'id="data">(.*?)</script>', (tmp_path / "run/report.html").read_text(), re.DOTALL
    )
    sections = {section["id"]: section for section in json.loads(held[1])["sections"]}
    assert [*sections] == ["trained", "lists", "weaknesses", "search", "missing"]
    assert [what for what, _ in sections["missing"]["of"][0]["rows"]] == [
        "the filter picture and the map"
    ]
    lists = sections["weaknesses"]["of"][0]["lists"]
    assert [one["heading"].partition(" (")[0] for one in lists] == ["Most frequent hubs"]
