"""Do nearest neighbours share the album? `python -m benchmarks.albums CORPUS FOLDER [SETTING ...]`.

What one listener gets without anybody's plays: mel statistics, `tasks.pretrain` with and without
albums, and stage 1 on `factors=sessions`. Half of the artists (of the albums, where no artist is
named) is trained on, but for every third of their tracks. What was not trained on is asked, each
track for its nearest among all of that: **heard albums** have other tracks in training, **new
albums** have none. FOLDER keeps the trainings, each of SEEDS seeds; each SETTING goes to all of
them (`epochs=10`), and a spectrogram store in FOLDER/spectrograms is used as it is.

The sessions are **simulated**: eight training tracks each, the next one of the same album with
probability .7, else any. Intervals are 95 %, of a bootstrap over albums.
"""

import hashlib
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType

import hydra
import numpy as np
import polars as pl

from cbmr.corpus import Corpus, rows_of
from cbmr.evaluation.baselines import mel_statistics
from cbmr.factors import unit_rows
from cbmr.logmel import MelSpec
from cbmr.sources.tables import read_corpus
from cbmr.spectrograms import SpectrogramStore, store_folder
from cbmr.vectors import load_vectors
from tasks import factorize, pretrain, regress
from tasks.command import CONF

DEPTH = 10
SEEDS = 3
BOOTSTRAPS = 2_000
SESSIONS, LISTENS, SAME_ALBUM = 600, 8, 0.7
EXCERPT_S = 30.0
BASELINE = "mel statistics"
ROWS = {
    "pretrain, excerpts alone": (pretrain, ["albums=0"]),
    "pretrain, excerpts and albums": (pretrain, ["albums=0.5"]),
    "stage 1 on simulated sessions": (regress, []),
}


def main() -> None:
    """Train what is missing and print a Markdown table."""
    source, folder, *settings = sys.argv[1:]
    home = Path(folder)
    corpus = _half_trained(read_corpus(Path(source)), home / "corpus")
    with hydra.initialize_config_dir(CONF, version_base=None):
        spec = MelSpec(**hydra.compose("pretrain").encoder.mel)
        stores = store_folder(home / "spectrograms", spec, EXCERPT_S)
        for name, (task, own) in ROWS.items():
            for seed in range(SEEDS):
                _train(home, f"{name} {seed}", task, [*own, f"rng_seed={seed}", *settings])
    store = SpectrogramStore(stores)
    at = corpus.track_rows(store.track_ids)
    assert corpus.split is not None
    trained = corpus.split[at] == "train"
    columns = _columns(corpus, at, trained)
    statistics = mel_statistics(store)
    scaled = (statistics - statistics[trained].mean(axis=0)) / statistics[trained].std(axis=0)
    found = {BASELINE: _found(unit_rows(scaled), columns, ~trained)}
    for name, (task, _) in ROWS.items():
        runs = [home / f"{name} {seed}" / task.__name__.rsplit(".", 1)[1] for seed in range(SEEDS)]
        each = [_found(_vectors(run, store), columns, ~trained) for run in runs]
        found[name] = {column: np.mean([one[column] for one in each], axis=0) for column in columns}
    _print(found, columns)


def _half_trained(corpus: Corpus, folder: Path) -> Corpus:
    """The same tracks, two thirds of those of half of the artists to train on, with a listener's
    sessions."""
    names = np.where(corpus.artist == "", corpus.album, corpus.artist)
    order = sorted(set(names.tolist()), key=_drawn)
    train = np.isin(names, order[::2]) & (names != "")
    of_half = sorted(np.flatnonzero(train), key=lambda row: _drawn(str(corpus.track_ids[row])))
    train[of_half[::3]] = False
    paths = [str(corpus.audio_path(row).absolute()) for row in range(len(names))]
    tables = {
        "tracks": pl.DataFrame({
            "track_id": corpus.track_ids, "path": paths, "artist": corpus.artist,
            "album": corpus.album, "split": np.where(train, "train", "test"),
        }),
        "plays": _sessions(corpus, np.flatnonzero(train)),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return read_corpus(folder)


def _drawn(name: str) -> bytes:
    return hashlib.blake2b(name.encode()).digest()


def _sessions(corpus: Corpus, train: np.ndarray) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    plays = []
    for session in range(SESSIONS):
        row = rng.choice(train)
        for listen in range(LISTENS):
            time = datetime(2024, 1, 1, 20, tzinfo=UTC) + timedelta(
                days=session, minutes=4 * listen
            )
            plays.append(("listener", str(corpus.track_ids[row]), 1, time))
            mates = train[(corpus.album[train] == corpus.album[row]) & (train != row)]
            stays = len(mates) and rng.random() < SAME_ALBUM
            row = rng.choice(mates if stays else train)
    return pl.DataFrame(plays, ["user_id", "track_id", "count", "time"], orient="row")


def _train(home: Path, name: str, task: ModuleType, settings: list[str]) -> None:
    run = home / name
    run.mkdir(parents=True, exist_ok=True)
    (home / "spectrograms").mkdir(exist_ok=True)
    if not (run / "spectrograms").exists():
        (run / "spectrograms").symlink_to((home / "spectrograms").absolute())
    folders = [f"corpus='{home / 'corpus'}'", f"run='{run}'"]
    if task is regress:
        factorize.run(hydra.compose("factorize", [*folders, "factors=sessions"]))
    task.run(hydra.compose(task.__name__.rsplit(".", 1)[1], [*folders, *settings]))


def _columns(corpus: Corpus, at: np.ndarray, trained: np.ndarray) -> dict[str, np.ndarray]:
    """For each column the number of the album of every row of the store; -1 is not asked, since it
    was trained on or no other track of its album is among those that were not."""
    album = np.unique(corpus.album[at], return_inverse=True)[1]
    left = np.bincount(album, ~trained)[album]
    asked = ~trained & (corpus.album[at] != "") & (left > 1)
    heard = np.bincount(album, trained)[album] > 0
    return {
        "heard albums": np.where(asked & heard, album, -1),
        "new albums": np.where(asked & ~heard, album, -1),
    }


def _vectors(run: Path, store: SpectrogramStore) -> np.ndarray:
    vectors = load_vectors(run / "embeddings.npz")
    return vectors.vectors[rows_of(vectors.track_ids, store.track_ids)]


def _found(
    vectors: np.ndarray, columns: dict[str, np.ndarray], candidates: np.ndarray
) -> dict[str, np.ndarray]:
    """Of each column's albums `[albums, 2]`, the mean over its tracks: of a track's nearest, the
    share among the first ten that is of its album, and one over the place of the first that is."""
    found = {}
    rows = np.flatnonzero(candidates)
    cosine = vectors @ vectors[rows].T
    for column, album in columns.items():
        asked = np.flatnonzero(album >= 0)
        near = np.where(rows == asked[:, None], -np.inf, cosine[asked])
        order = np.argsort(-near, axis=1)[:, :-1]
        same = album[rows][order] == album[asked][:, None]
        numbers = np.stack([same[:, :DEPTH].mean(axis=1), 1 / (1 + same.argmax(axis=1))])
        of = np.unique(album[asked], return_inverse=True)[1]
        found[column] = np.stack([np.bincount(of, one) / np.bincount(of) for one in numbers], 1)
    return found


def _print(found: dict[str, dict[str, np.ndarray]], columns: dict[str, np.ndarray]) -> None:
    """Means over albums, and differences to the first row."""
    for column, album in columns.items():
        size = np.bincount(album[album >= 0])
        size = size[size > 0]
        best = np.minimum(size - 1, DEPTH).mean() / DEPTH
        print(f"\n{column}: {size.sum()} tracks of {len(size)}, a precision of {best:.3f} is the "
              f"highest there can be; {SEEDS} trainings each\n")  # fmt: skip
        print(f"| row | precision@{DEPTH} | to {BASELINE} | reciprocal rank | to {BASELINE} |")
        print("|---|---|---|---|---|")
        draws = np.random.default_rng(0).integers(len(size), size=(BOOTSTRAPS, len(size)))
        for name, of_albums in found.items():
            numbers = of_albums[column]
            apart = numbers - found[BASELINE][column]
            low, high = np.percentile(apart[draws].mean(axis=1), [2.5, 97.5], axis=0)
            cells = [
                f"{number:.3f} | {mean:+.3f} [{a:+.3f}, {b:+.3f}]"
                for number, mean, a, b in zip(
                    numbers.mean(axis=0), apart.mean(axis=0), low, high, strict=True
                )
            ]
            print(f"| {name} | {' | '.join(cells)} |")
        print(flush=True)


if __name__ == "__main__":
    main()
