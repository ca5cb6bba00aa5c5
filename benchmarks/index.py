"""Indexes side by side, and a playlist among a million tracks: `python -m benchmarks.index`.

Vectors are drawn as the demo world's encoders leave them: around a common direction, the variance
of the k-th other one falls as 1 / k^2, and four tenths of it are within an artist, who has eight
tracks in the mean. Queries are further tracks of the same artists. Annoy is built as `tasks.index`
does it, the time of choosing trees and candidates included; voyager and hnswlib take half as many
candidates again (`ef`) until they reach the same recall, so that speeds compare. Each index is
built, then opened from its file, in a process of its own. Playlists are asked for in a warm
process, from the seed's id to the JSON, each with every rule that costs tracks; then in a cold one.

All times are of one thread and of the processor, so that what else the machine does hardly counts.
The tables are written into RESULTS.md.
"""

import dataclasses
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cbmr.index import Index, build_index, load_index
from cbmr.playlists import (
    Catalogue,
    Entry,
    find_tracks,
    format_playlist,
    make_playlist,
    make_rules,
)
from cbmr.sources.tables import read_corpus
from cbmr.vectors import Vectors, load_vectors, save_vectors

SIZES = (10_000, 100_000, 1_000_000)
DIMENSION, ARTIST, WITHIN, COMMON = 40, 8, 0.4, 1.25
DEPTH, RECALL, QUERIES, REQUESTS = 10, 0.95, 500, 500
LINKS, CONSTRUCTION = 16, 100
HISTORY = 1_000
"""Tracks, of which ten are among the thirty nearest."""
NEGATIVE_DISTANCE = 0.01
"""From the twentieth nearest track: the tracks of one corner of what would be listed."""
Opened = tuple[Path, list[tuple[str, Callable[[np.ndarray], Sequence[int] | np.ndarray]]]]
"""An index's file, and by each setting to be tried the search that lists a query's nearest rows."""
BEGIN, END = "<!-- index -->", "<!-- index end -->"


@dataclass(frozen=True)
class Row:
    """One index of one size: `recall` at 10, seconds to build, MB on the disk and in memory."""

    backend: str
    tracks: int
    setting: str
    recall: float
    queries_s: float
    build_s: float
    file_mb: float
    memory_mb: float


def main() -> None:
    """Measure, print, and write both tables."""
    from benchmarks.results import write_between  # which loads much that no other process needs

    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read by the processes that are started below
    lines = [
        "| index | tracks | setting | recall@10 | queries/s | build, s | file, MB | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        for tracks in SIZES:
            alone(draw, folder, tracks)
            for backend in BACKENDS:
                build_s = alone(timed_build, backend, folder)
                row = alone(serve, backend, folder, tracks, build_s)
                lines.append(
                    f"| {row.backend} | {row.tracks:,} | {row.setting} | {row.recall:.3f} | "
                    f"{row.queries_s:,.0f} | {row.build_s:.1f} | {row.file_mb:.0f} | "
                    f"{row.memory_mb:.0f} |"
                )
                print(lines[-1], flush=True)
        lines += ["", *alone(playlists, folder)]
    print("\n".join(lines))
    write_between(BEGIN, END, "\n".join(lines))


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, so that no memory is another one's."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def music(
    tracks: int, queries: int, rng_seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors `[tracks, 40]`, their artists `[tracks]`, and queries `[queries, 40]`."""
    rng = np.random.default_rng(rng_seed)
    spread = 1 / np.arange(1, DIMENSION + 1)
    spread /= np.linalg.norm(spread)
    artists = rng.standard_normal((max(1, tracks // ARTIST), DIMENSION)) * spread
    # Some artists have many more tracks than others.
    artist = (len(artists) * rng.random(tracks + queries) ** 1.5).astype(int)
    vectors = rng.standard_normal((tracks + queries, DIMENSION)) * spread * np.sqrt(WITHIN)
    vectors += artists[artist] * np.sqrt(1 - WITHIN) + COMMON / np.sqrt(DIMENSION)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float32)
    return vectors[:tracks], artist[:tracks], vectors[tracks:]


def draw(folder: Path, tracks: int) -> None:
    """Leave vectors, queries and the tracks nearest to each."""
    vectors, artist, queries = music(tracks, QUERIES)
    track_ids = np.array([f"t{row:07d}" for row in range(tracks)])
    save_vectors(folder / "embeddings.npz", Vectors(track_ids, vectors))
    nearest = [_sorting(vectors)(query, DEPTH) for query in queries]
    np.savez(folder / "asked.npz", queries=queries, nearest=nearest, artist=artist)


# --- the indexes --------------------------------------------------------------------------------


def timed_build(backend: str, folder: Path) -> float:
    """Build and save, in seconds, those of importing and reading left out."""
    vectors = load_vectors(folder / "embeddings.npz")
    build = BACKENDS[backend][0]
    build(folder, Vectors(vectors.track_ids[:100], vectors.vectors[:100]))
    began = time.process_time()
    build(folder, vectors)
    return time.process_time() - began


def serve(backend: str, folder: Path, tracks: int, build_s: float) -> Row:
    """Open the index from its file and ask it."""
    with np.load(folder / "asked.npz") as asked:
        queries, nearest = asked["queries"], asked["nearest"]
    queries @ queries[0]  # what NumPy allocates once is no index
    before = _resident_mb()
    path, searches = BACKENDS[backend][1](folder)
    setting, recall, took = "", 0.0, 0.0
    for setting, search in searches:  # noqa: B007 (the last one is told)
        began = time.process_time()
        found = [search(query) for query in queries]
        took = time.process_time() - began
        recall = float(np.mean([np.isin(a, b) for a, b in zip(nearest, found, strict=True)]))
        if recall >= RECALL:
            break
    memory_mb = _resident_mb() - before
    file_mb = path.stat().st_size / 1e6
    return Row(backend, tracks, setting, recall, len(queries) / took, build_s, file_mb, memory_mb)


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1e3


def _build_annoy(folder: Path, vectors: Vectors) -> None:
    build_index(folder, vectors, encoder_hash="", recall=RECALL, backend="annoy")


def _open_annoy(folder: Path) -> Opened:
    from annoy import AnnoyIndex

    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    trees, search_k = manifest["trees"], manifest["search_k"]
    annoy = AnnoyIndex(DIMENSION, manifest["metric"])
    annoy.load(str(folder / "tracks.ann"))

    def search(query: np.ndarray) -> list[int]:
        return annoy.get_nns_by_vector(query, DEPTH, search_k)

    return folder / "tracks.ann", [(f"trees={trees} search_k={search_k}", search)]


def _build_exact(folder: Path, vectors: Vectors) -> None:
    np.save(folder / "exact.npy", vectors.vectors)


def _open_exact(folder: Path) -> Opened:
    sort = _sorting(np.load(folder / "exact.npy"))

    def search(query: np.ndarray) -> np.ndarray:
        return sort(query, DEPTH)

    return folder / "exact.npy", [("NumPy", search)]


def _build_voyager(folder: Path, vectors: Vectors) -> None:
    import voyager

    index = voyager.Index(voyager.Space.Cosine, DIMENSION, LINKS, CONSTRUCTION)
    index.add_items(vectors.vectors, num_threads=1)
    index.save(str(folder / "voyager.bin"))


def _open_voyager(folder: Path) -> Opened:
    import voyager

    index = voyager.Index.load(str(folder / "voyager.bin"))

    def search_by(ef: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda query: index.query(query, DEPTH, num_threads=1, query_ef=ef)[0]

    return folder / "voyager.bin", [(f"M={LINKS} ef={ef}", search_by(ef)) for ef in EFS]


def _build_hnswlib(folder: Path, vectors: Vectors) -> None:
    import hnswlib

    index = hnswlib.Index("cosine", DIMENSION)
    index.init_index(len(vectors.vectors), CONSTRUCTION, LINKS)
    index.set_num_threads(1)
    index.add_items(vectors.vectors)
    index.save_index(str(folder / "hnswlib.bin"))


def _open_hnswlib(folder: Path) -> Opened:
    import hnswlib

    index = hnswlib.Index("cosine", DIMENSION)
    index.load_index(str(folder / "hnswlib.bin"))
    index.set_num_threads(1)

    def search_by(ef: int) -> Callable[[np.ndarray], np.ndarray]:
        def search(query: np.ndarray) -> np.ndarray:
            index.set_ef(ef)
            return index.knn_query(query, DEPTH)[0][0]

        return search

    return folder / "hnswlib.bin", [(f"M={LINKS} ef={ef}", search_by(ef)) for ef in EFS]


EFS = (10, 15, 22, 33, 50, 75, 112, 168, 252, 378, 567, 850)
BACKENDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "annoy": (_build_annoy, _open_annoy),
    "exact": (_build_exact, _open_exact),
    "voyager": (_build_voyager, _open_voyager),
    "hnswlib": (_build_hnswlib, _open_hnswlib),
}


# --- playlists ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Track ids, and the rows of what was played lately."""

    seed: str
    far: str
    unwanted: str
    played: frozenset[int]


def playlists(folder: Path) -> list[str]:
    """Milliseconds a request, by the index that `_build_annoy` left, against exact search."""
    vectors = load_vectors(folder / "embeddings.npz")
    tracks = len(vectors.track_ids)
    _write_tracks(folder / "corpus", vectors.track_ids, folder / "asked.npz")
    corpus = read_corpus(folder / "corpus")
    other = vectors.vectors.copy()
    other[: tracks // 100] = music(tracks // 100, 0, rng_seed=3)[0]
    lines = [
        f"A playlist of 20 among {tracks:,} tracks in a warm process, with a history, a negative "
        "seed, lengths, a total length, caps, spacing, versions and copies. *Shared* are the "
        "tracks that exact search lists too.",
        "",
        "| request | median, ms | 99th percentile, ms | shared |",
        "|---|---|---|---|",
    ]
    for name, mode, served in (
        ("nearest", "nearest", vectors),
        ("nearest, 1 % of the vectors changed", "nearest", Vectors(vectors.track_ids, other)),
        ("path", "path", vectors),
        ("chain", "chain", vectors),
    ):
        index, catalogue = load_index(folder, served, encoder_hash=""), Catalogue(corpus, served)
        exact = dataclasses.replace(index, search=_sorting(served.vectors))
        _request(index, catalogue, _asked(index, REQUESTS), mode)
        took, shared = [], []
        for number in range(REQUESTS):
            asked = _asked(index, number)
            began = time.process_time()
            ours = _request(index, catalogue, asked, mode)
            took.append((time.process_time() - began) * 1e3)
            if mode == "nearest" and number % 10 == 0:
                theirs = {entry.track_id for entry in _request(exact, catalogue, asked, mode)}
                shared.append(np.mean([entry.track_id in theirs for entry in ours]))
        median, last = np.percentile(took, (50, 99))
        agreement = f"{np.mean(shared):.3f}" if shared else ""
        lines.append(f"| {name} | {median:.1f} | {last:.1f} | {agreement} |")
    took_s = _cold(folder, str(vectors.track_ids[0]))
    return [*lines, "", f"A cold process, `python -m tasks.playlist`, takes {took_s:.1f} s."]


def _sorting(vectors: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda query, n: np.argpartition(vectors @ query, -n)[-n:].copy()


def _asked(index: Index, number: int) -> Asked:
    tracks, rng = len(index), np.random.default_rng((2, number))
    seed, far = rng.integers(tracks, size=2)
    near = index.nearest(index.vectors.vectors[seed], 30)[0]
    played = frozenset([*near[1::3].tolist(), *rng.integers(tracks, size=HISTORY).tolist()])
    ids = index.vectors.track_ids[[seed, far, near[20]]].tolist()
    return Asked(seed=ids[0], far=ids[1], unwanted=ids[2], played=played)


def _request(index: Index, catalogue: Catalogue, asked: Asked, mode: str) -> Sequence[Entry]:
    """From ids to the text of a list, as a server that holds the catalogue answers it."""
    words = [asked.seed, asked.far] if mode == "path" else [asked.seed]
    negative = find_tracks(catalogue, [asked.unwanted], setting="negative").tracks
    rules = make_rules(
        exclude=asked.played,
        negative=[catalogue.track(source).vector for source in negative],
        negative_distance=NEGATIVE_DISTANCE,
        min_duration_s=90,
        max_duration_s=600,
        max_per_artist=2,
        max_per_album=1,
    )
    playlist = make_playlist(
        catalogue,
        index,
        [catalogue.track(source) for source in find_tracks(catalogue, words).tracks],
        rules,
        n=20,
        mode=mode,
        total_duration_s=None if mode == "path" else 4_800,
    )
    format_playlist(playlist, "json", paths="absolute", base=Path())
    return playlist.entries


def _write_tracks(folder: Path, track_ids: np.ndarray, asked: Path) -> None:
    """Songs in several versions, three albums an artist, lengths of four minutes in the mean."""
    import polars as pl

    with np.load(asked) as file:
        artist = file["artist"]
    rng = np.random.default_rng(1)
    version = rng.choice(["", "", "", " (Live)", " - 2011 Remaster"], len(track_ids))
    song = rng.integers(len(track_ids) // 3, size=len(track_ids))
    folder.mkdir(exist_ok=True)
    pl.DataFrame(
        {
            "track_id": track_ids,
            "path": [f"{row % 1000:03d}/{row}.mp3" for row in range(len(track_ids))],
            "title": [f"Song {a}{b}" for a, b in zip(song, version, strict=True)],
            "artist": [f"Artist {number}" for number in artist.tolist()],
            "album": [f"Album {number}" for number in (artist * 3 + song % 3).tolist()],
            "duration_s": rng.gamma(16, 15, len(track_ids)),
        }
    ).write_parquet(folder / "tracks.parquet")


def _cold(folder: Path, seed: str) -> float:
    """Seconds of the processor of the command, on a run made of the same files."""
    run = folder / "run"
    for stage, names in (
        ("update", ["embeddings.npz"]),
        ("index", ["tracks.ann", "manifest.json"]),
    ):
        (run / stage).mkdir(parents=True)
        for name in names:
            (run / stage / name).hardlink_to(folder / name)
    (run / "update/manifest.json").write_text(json.dumps({"outputs": {"encoder.pt": ""}}))
    command = [sys.executable, "-m", "tasks.playlist", f"seed={seed}", f"run={run}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, f"corpus={folder / 'corpus'}"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
