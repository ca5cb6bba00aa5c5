"""Do nearest neighbours share the album? `python -m benchmarks.albums CORPUS FOLDER [SETTING ...]`.

What one listener gets without anybody's plays: mel statistics, `tasks.pretrain` with and without
albums, and stage 1 on `factors=sessions`. Half of the artists (of the albums, where no artist is
named) is trained on; the tracks of the others' albums are asked, each for its nearest among them.
No album that is asked about was heard in training. FOLDER keeps the trainings; each SETTING goes to
both trainings (`epochs=10`), and a spectrogram store in FOLDER/spectrograms is used as it is.

The sessions are **simulated**: eight tracks of the training half each, the next one of the same
album with probability .7, else any. Intervals are 95 %, of a bootstrap over albums.
"""

import hashlib
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import hydra
import numpy as np
import polars as pl

from cbmr.corpus import Corpus, rows_of
from cbmr.encoder import load_encoder
from cbmr.evaluation.baselines import mel_statistics
from cbmr.factors import unit_rows
from cbmr.sources.tables import read_corpus
from cbmr.spectrograms import SpectrogramStore, store_folder
from cbmr.vectors import load_vectors
from tasks import factorize, pretrain, regress
from tasks.command import CONF

DEPTH = 10
BOOTSTRAPS = 2_000
SESSIONS, LISTENS, SAME_ALBUM = 600, 8, 0.7
EXCERPT_S = 30.0


def main() -> None:
    """Train what is missing and print two Markdown tables."""
    source, folder, *settings = sys.argv[1:]
    home = Path(folder)
    corpus = _half_trained(read_corpus(Path(source)), home / "corpus")
    with hydra.initialize_config_dir(CONF, version_base=None):
        for name in ("without", "with", "sessions"):
            (home / name).mkdir(parents=True, exist_ok=True)
            (home / "spectrograms").mkdir(exist_ok=True)
            if not (home / name / "spectrograms").exists():
                (home / name / "spectrograms").symlink_to((home / "spectrograms").absolute())
        _task(pretrain, home, "without", "albums=0", *settings)
        _task(pretrain, home, "with", *settings)
        _task(factorize, home, "sessions", "factors=sessions")
        _task(regress, home, "sessions", *settings)
    spec = load_encoder(home / "with/pretrain/encoder.pt").mel_spec
    assert spec is not None
    store = SpectrogramStore(store_folder(home / "spectrograms", spec, EXCERPT_S))
    at = corpus.track_rows(store.track_ids)
    heard = corpus.split[at] == "train"
    statistics = mel_statistics(store)
    scaled = (statistics - statistics[heard].mean(axis=0)) / statistics[heard].std(axis=0)
    rows = {"mel statistics": unit_rows(scaled)}
    for name, stage in {
        "pretrain, excerpts alone": "without/pretrain",
        "pretrain, excerpts and albums": "with/pretrain",
        "stage 1 on simulated sessions": "sessions/regress",
    }.items():
        vectors = load_vectors(home / stage / "embeddings.npz")
        rows[name] = vectors.vectors[rows_of(vectors.track_ids, store.track_ids)]
    asked = _asked(corpus, at, heard)
    album = np.unique(corpus.album[at[asked]], return_inverse=True)[1]
    _print({name: _found(vectors[asked], album) for name, vectors in rows.items()}, album)


def _half_trained(corpus: Corpus, folder: Path) -> Corpus:
    """The same tracks, those of half of the artists to train on, with a listener's sessions."""
    names = np.where(corpus.artist == "", corpus.album, corpus.artist)
    order = sorted(set(names.tolist()), key=lambda name: hashlib.blake2b(name.encode()).digest())
    train = np.isin(names, order[::2]) & (names != "")
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


def _task(task, home: Path, name: str, *settings: str) -> None:
    folders = [f"corpus='{home / 'corpus'}'", f"run='{home / name}'"]
    task.run(hydra.compose(task.__name__.rsplit(".", 1)[1], [*folders, *settings]))


def _asked(corpus: Corpus, at: np.ndarray, heard: np.ndarray) -> np.ndarray:
    """Rows of the store that are asked: of unheard albums with two tracks or more."""
    album = corpus.album[at]
    names, tracks = np.unique(album[~heard & (album != "")], return_counts=True)
    return np.flatnonzero(~heard & np.isin(album, names[tracks > 1]))


def _found(vectors: np.ndarray, album: np.ndarray) -> np.ndarray:
    """`[asked, 2]`: of each track's nearest, the share among the first ten that is of its album,
    and one over the place of the first that is."""
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1)[:, :-1]
    same = album[order] == album[:, None]
    return np.stack([same[:, :DEPTH].mean(axis=1), 1 / (1 + same.argmax(axis=1))], axis=1)


def _print(found: dict[str, np.ndarray], album: np.ndarray) -> None:
    """Means over albums of the means over their tracks; differences are to the first row."""
    size = np.bincount(album)
    of_albums = {
        name: np.stack([np.bincount(album, column) / size for column in numbers.T], axis=1)
        for name, numbers in found.items()
    }
    draws = np.random.default_rng(0).integers(len(size), size=(BOOTSTRAPS, len(size)))
    best = np.minimum(size - 1, DEPTH) / DEPTH
    print(f"\n{len(album)} tracks of {len(size)} albums that no training heard; a precision of "
          f"{best.mean():.3f} is the highest there can be\n")  # fmt: skip
    for title, less in (("", 0), (" minus mel statistics", of_albums["mel statistics"])):
        print(f"| row | precision@{DEPTH}{title} | reciprocal rank{title} |\n|---|---|---|")
        for name, numbers in of_albums.items():
            if not (title and name == "mel statistics"):
                low, high = np.percentile((numbers - less)[draws].mean(axis=1), [2.5, 97.5], axis=0)
                mean = (numbers - less).mean(axis=0)
                cells = [
                    f"{m:.3f} [{a:.3f}, {b:.3f}]" for m, a, b in zip(mean, low, high, strict=True)
                ]
                print(f"| {name} | {' | '.join(cells)} |")
        print(flush=True)


if __name__ == "__main__":
    main()
