"""Small real corpora: a few seconds of tones, and the tables that belong to them."""

import os
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes on two cores


def write_wav(path: Path, samples: np.ndarray, sample_rate: int = 22_050) -> Path:
    """16-bit mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(samples, -1, 1) * 32_767).astype("<i2").tobytes())
    return path


def tone(seconds: float, hz: float, sample_rate: int = 22_050, rng_seed: int = 0) -> np.ndarray:
    """A sine with a little noise, so that no two are alike."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    noise = np.random.default_rng(rng_seed).standard_normal(len(time))
    return 0.4 * np.sin(2 * np.pi * hz * time) + 0.01 * noise


TITLES = (
    "Plain", "Beyoncé (live)", "夜の歌", "🎵 emoji = joy", "It's, well; a comma",
    "A & B", "100%", "Plain too", "Ünder", "Same", "Same", "Last", "Newer", "Newest",
)  # fmt: skip


FACTORS = ("factors.size=4", "factors.options.regularization=1", "factors.options.alpha=2")
"""Of `make_tables`' plays, so that a few epochs of either stage learn something."""


def make_tables(tracks: int = 14, listeners: int = 16, rng_seed: int = 0):
    """Two taste camps: even listeners play low tracks and odd ones high tracks, and vote so."""
    rng = np.random.default_rng(rng_seed)
    split = ["train"] * (tracks - 6) + ["valid"] * 2 + ["test"] * 4
    table = pl.DataFrame(
        {
            "track_id": [f"t{row}" for row in range(tracks)],
            "path": [f"audio/t{row}.wav" for row in range(tracks)],
            "title": [TITLES[row % len(TITLES)] for row in range(tracks)],
            "artist": [f"artist {row % 4}" if row < tracks - 2 else "newcomer"
                       for row in range(tracks)],
            "album": [f"album {row % 3}" for row in range(tracks)],
            "duration_s": [4.0] * tracks,
            "split": split,
        }
    )  # fmt: skip
    plays, thumbs = [], []
    for user in range(listeners):
        liked = [row for row in range(tracks) if row % 2 == user % 2]
        for row in liked:
            if rng.random() < 0.8:
                plays.append((f"u{user}", f"t{row}", int(rng.integers(1, 5))))
        seed = int(rng.choice(liked))
        for row in range(tracks):
            if row != seed and rng.random() < 0.7:
                thumbs.append((f"u{user}", f"t{seed}", f"t{row}", 1 if row in liked else -1))
    return {
        "tracks": table,
        "plays": pl.DataFrame(plays, ["user_id", "track_id", "count"], orient="row"),
        "thumbs": pl.DataFrame(thumbs, ["user_id", "seed_id", "track_id", "thumb"], orient="row"),
    }


def write_corpus(folder: Path, **tables: pl.DataFrame) -> Path:
    """Audio of 4 s (even tracks low, odd ones high) and the tables, as Parquet."""
    tables = {**make_tables(), **tables}
    for row in range(len(tables["tracks"])):
        hz = (220 if row % 2 == 0 else 1760) * (1 + row / 50)
        write_wav(folder / f"audio/t{row}.wav", tone(4.0, hz, rng_seed=row))
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return folder


HOSTILE = "</script><b id=evil>& \u2028 'quotes\" ${x} /* data */"
"""A title that would break out of a page."""


@pytest.fixture(scope="module")
def browser():
    """A real browser, to open pages with."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium to open pages with")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PyTorch on two threads, whose order nothing may hang on."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus")
