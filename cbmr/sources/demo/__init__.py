"""Makes the demo world: playable music, listeners and radio stations, with the truth behind them.

Conventions: everything follows from `rng_seed` and the other settings. `settings.json` is written
first, then the audio, then the tables, `tracks.parquet` last: a folder with `tracks.parquet` is
complete, one without can be gone on with. No file ever stands half-written under its own name; a
`.partial` file is the rest of an interrupted making and is written anew.

Files: `audio/*/*/*.mp3` mono with tags, where `audio` may be a link into another world; what
`tables.py` says of the others.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from cbmr.errors import InputError
from cbmr.files import read_json, write_json
from cbmr.sources.demo.catalogue import KEYS, Track, make_catalogue
from cbmr.sources.demo.music import render, write_mp3
from cbmr.sources.demo.radio import draw_radio
from cbmr.sources.demo.tables import write_tables
from cbmr.sources.demo.world import draw_plays, draw_taste

__all__ = ["make_demo"]

FORMAT = 1
# Settings younger than the format, with the value at which they change nothing. At it they are not
# written, so that a world from before them is still found whole.
LATER = {"radio_censoring": 0.0, "vote_spread": 0.0, "keys": "any"}
OF_AUDIO = ("format", "rng_seed", "tracks", "artists", "styles", "duration_s", "keys")
OWN_NAMES = {
    "settings.json",
    "audio",
    "plays.parquet",
    "thumbs.parquet",
    "exposures.parquet",
    "truth.npz",
    "tracks.parquet",
}


def make_demo(
    folder: Path,
    *,
    rng_seed: int = 0,
    tracks: int = 600,
    artists: int = 80,
    styles: int = 8,
    listeners: int = 1000,
    votes: int = 20_000,
    duration_s: float = 30.0,
    keys: str = "any",
    curvature: float = 0.5,
    artist_strength: float = 0.4,
    hidden_strength: float = 0.25,
    focus: float = 2.2,
    popularity_spread: float = 0.8,
    plays_per_listener: float = 50.0,
    radio_noise: float = 0.5,
    radio_sharpness: float = 2.0,
    radio_popularity: float = 0.5,
    radio_censoring: float = 0.0,
    similarity_scale: float = 5.5,
    affinity_scale: float = 0.3,
    kindness: float = 0.5,
    kindness_spread: float = 0.5,
    vote_spread: float = 0.0,
    flip_rate: float = 0.10,
    audio_of: Path | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Makes a demo world in `folder`, or goes on with one that was interrupted.

    Sizes are counts; `votes` and `plays_per_listener` (a median) are met roughly. With `keys`
    "style" the key of a track tells its style, with "any" it tells nothing. The strengths are
    explained by `draw_taste` and `draw_radio`. `workers` processes render the audio (with one,
    this process does) and change nothing in what comes out; `progress(done, total)` is called
    after each track. A folder that already holds this world is left as it is.

    `audio_of` is the folder of a complete world of the same music (`OF_AUDIO`): its audio is linked
    instead of rendered again, and in seconds the same tracks have other listeners or radio. A
    stage whose settings and stages before are the same draws the same: with another radio alone,
    tracks and plays stay the same to the byte.

    Raises InputError for impossible settings, for a folder that holds anything but this world, and
    for an `audio_of` that is incomplete or of other music.
    """
    settings = {
        name: value
        for name, value in locals().items()
        if name not in ("folder", "audio_of", "workers", "progress")
    }
    _check_settings(settings, workers)
    settings = {"format": FORMAT, **settings}
    settings = {key: value for key, value in settings.items() if LATER.get(key) != value}
    if audio_of is not None:
        _check_audio(audio_of, settings)
    if not _open_folder(folder, settings):
        return

    catalogue = make_catalogue(_rng(rng_seed, 0), tracks, artists, styles, keys)
    if audio_of is not None and not (folder / "audio").exists():
        (folder / "audio").symlink_to((audio_of / "audio").resolve(), target_is_directory=True)
    _make_audio(folder, catalogue, duration_s, workers, progress)

    taste = draw_taste(
        _rng(rng_seed, 1), catalogue, listeners,
        curvature=curvature, artist_strength=artist_strength, hidden_strength=hidden_strength,
        focus=focus, popularity_spread=popularity_spread,
    )  # fmt: skip
    plays = draw_plays(_rng(rng_seed, 2), catalogue, taste, plays_per_listener)
    radio = draw_radio(
        _rng(rng_seed, 3), catalogue, taste, votes,
        radio_noise=radio_noise, radio_sharpness=radio_sharpness, radio_popularity=radio_popularity,
        radio_censoring=radio_censoring, similarity_scale=similarity_scale,
        affinity_scale=affinity_scale, kindness=kindness, kindness_spread=kindness_spread,
        vote_spread=vote_spread, flip_rate=flip_rate,
    )  # fmt: skip
    write_tables(folder, catalogue, duration_s, taste, plays, radio, flip_rate)


def _rng(rng_seed: int, stage: int) -> np.random.Generator:
    # A stream per stage, so that another number of votes leaves the music alone.
    return np.random.default_rng([rng_seed, stage])


def _check_settings(settings: dict[str, Any], workers: int) -> None:
    def require(good: bool, expected: str, name: str, mistake: str) -> None:
        if not good:
            raise InputError(
                f"make_demo expects {expected}, but {name} is {settings.get(name, workers)}: "
                f"{mistake}"
            )

    artists = settings["artists"]
    require(settings["rng_seed"] >= 0, "a seed of 0 or more", "rng_seed", "use any natural number")
    require(artists >= 4, "4 artists or more", "artists", "some must be new in valid and in test")
    require(
        settings["tracks"] >= 2 * artists + 2, f"{2 * artists + 2} tracks or more for {artists} "
        "artists", "tracks", "every artist has two tracks or more; ask for fewer artists",
    )  # fmt: skip
    require(
        1 <= settings["styles"] <= artists, f"1 to {artists} styles", "styles",
        "every style needs an artist",
    )  # fmt: skip
    require(settings["listeners"] >= 1, "1 listener or more", "listeners", "nobody would play")
    require(settings["votes"] >= 1, "1 vote or more", "votes", "the radio would have no stations")
    require(settings["duration_s"] >= 1, "1 second or more", "duration_s", "is it in minutes?")
    require(0 <= settings["flip_rate"] < 0.5, "a share from 0 up to 0.5", "flip_rate",
            "is it in per cent?")  # fmt: skip
    require(settings["keys"] in KEYS, " or ".join(KEYS), "keys", "which keys do tracks have?")
    for name in ("radio_censoring", "vote_spread"):
        require(settings[name] >= 0, "0 or more", name, "the world is without it at 0")
    require(workers >= 1, "1 worker or more", "workers", "this process alone is one worker")


def _check_audio(world: Path, settings: dict[str, Any]) -> None:
    if not (world / "tracks.parquet").exists() or not (world / "settings.json").exists():
        raise InputError(
            f"make_demo expects audio_of={world} to be a complete demo world, but it lacks "
            "tracks.parquet or settings.json: make that world first"
        )
    found = read_json(world / "settings.json")
    for name in OF_AUDIO:
        there, here = (of.get(name, LATER.get(name)) for of in (found, settings))
        if there != here:
            raise InputError(
                f"make_demo expects audio_of={world} to be of the same music, but there {name} is "
                f"{there}, here {here}: take both from one, or render anew"
            )


def _open_folder(folder: Path, settings: dict[str, Any]) -> bool:
    """Claims `folder` for a world of these settings; False if it is already complete there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "settings.json"
    names = {entry.name for entry in folder.iterdir() if not entry.name.endswith(".partial")}
    if not names:
        write_json(path, settings)
        return True
    if "settings.json" not in names:
        raise InputError(
            f"make_demo expects an empty folder or its own, but {folder} holds "
            f"{sorted(names)[:3]} and no settings.json: give a folder of its own to the world"
        )
    found = read_json(path)
    if found != settings:
        other = [key for key in settings | found if found.get(key) != settings.get(key)]
        raise InputError(
            f"make_demo expects {folder} to be empty or made with the same settings, but it holds "
            f"a world that differs in {', '.join(other)}: take another folder, or delete this one "
            "if nothing in it is needed"
        )
    if "tracks.parquet" in names:
        return False
    if names - OWN_NAMES:
        raise InputError(
            f"make_demo expects only its own files in {folder}, but finds "
            f"{sorted(names - OWN_NAMES)[:3]}: move them out, then make the world again"
        )
    return True


def _make_audio(
    folder: Path,
    catalogue: list[Track],
    duration_s: float,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    for directory in {(folder / track.path).parent for track in catalogue}:
        directory.mkdir(parents=True, exist_ok=True)
    missing = [track for track in catalogue if not (folder / track.path).exists()]
    done = len(catalogue) - len(missing)
    for _ in _rendered(folder, missing, duration_s, workers):
        done += 1
        if progress is not None:
            progress(done, len(catalogue))


def _rendered(
    folder: Path, missing: list[Track], duration_s: float, workers: int
) -> Iterator[None]:
    """Renders tracks to their files and yields after each."""
    if workers == 1 or len(missing) < 2:
        for track in missing:
            _make_track(folder, track, duration_s)
            yield
        return
    # Fresh processes: a fork of one that runs threads (torch, polars) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent) as pool:
        futures = [pool.submit(_make_track, folder, track, duration_s) for track in missing]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        finally:
            pool.shutdown(cancel_futures=True)


def _make_track(folder: Path, track: Track, duration_s: float) -> None:
    tags = {"title": track.title, "artist": track.artist, "album": track.album}
    write_mp3(folder / track.path, render(track.music, duration_s), tags)


def _die_with_parent() -> None:
    # A killed parent cannot tell its workers to stop; they would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
