"""Whether `tasks.filter` finds what does not belong: `python -m benchmarks.filter [FOLDER]`.

On the demo worlds of `benchmarks.worlds` in FOLDER (default `runs/worlds`), the first training of
each. Of every list so many tracks are named as there are odd ones, those that fit least, and their
precision stands beside that of naming tracks at random. Three kinds of list:

- an artist: all its tracks; odd are intros, outros, interludes, covers and remixes.
- CF's neighbours: the 50 training tracks nearest by WMF's factors to every fourth song; odd are the
  same kinds. This is the article's own case.
- a style: 40 tracks of one and 5 of others, drawn 5 times a style; odd are the 5.

"Marked" is the precision of what is marked where no number is given, and what share of the odd it
finds. The number of nearest was chosen on the same worlds.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.worlds import WORLDS
from cbmr.corpus import Corpus, rows_of
from cbmr.factors import load_factors, unit_rows
from cbmr.outliers import NEAREST, are_odd, fit_to_rest
from cbmr.sources.tables import read_corpus
from cbmr.vectors import aligned, load_vectors
from tasks.evaluate import SIMULATED

NEIGHBOURS, OF_STYLE, OF_OTHERS, DRAWS = 50, 40, 5, 5
FEWEST = 6

List = tuple[np.ndarray, np.ndarray]
"""Rows of the corpus, and which of them are odd."""


def main() -> None:
    """Print a Markdown table."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    scores: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mean of the others": _to_mean,
        f"{NEAREST} nearest of the list": fit_to_rest,
    }
    found: dict[tuple[str, str], list[list[float]]] = {}
    for world in range(WORLDS):
        corpus = read_corpus(folder / f"world{world}")
        run = folder / f"world{world}-training0"
        vectors = aligned(corpus, load_vectors(run / "rank/embeddings.npz"))
        for kind, lists in _lists(corpus, folder / f"world{world}", run, world).items():
            usable = [(rows, odd) for rows, odd in lists if len(rows) >= FEWEST and odd.any()]
            for name, score in scores.items():
                right_of = [_precision(score(vectors[rows]), odd) for rows, odd in usable]
                found.setdefault((kind, name), []).append(np.mean(right_of, axis=0).tolist())
            marks = [(are_odd(fit_to_rest(vectors[rows])), odd) for rows, odd in usable]
            right = sum(int((marked & odd).sum()) for marked, odd in marks)
            named = sum(int(marked.sum()) for marked, _ in marks)
            there = sum(int(odd.sum()) for _, odd in marks)
            found.setdefault((kind, "marked"), []).append([right / named, right / there])
    print(f"{SIMULATED} Mean of {WORLDS} worlds; below, of each.\n")
    print("| list | fit by | precision | at random | worlds |\n|---|---|---|---|---|")
    for (kind, name), values in found.items():
        mean = np.mean(values, axis=0)
        each = ", ".join(f"{value[0]:.2f}" for value in values)
        second = f"finds {mean[1]:.0%}" if name == "marked" else f"{mean[1]:.3f}"
        print(f"| {kind} | {name} | {mean[0]:.3f} | {second} | {each} |")


def _lists(corpus: Corpus, world: Path, run: Path, rng_seed: int) -> dict[str, Iterator[List]]:
    truth = dict(np.load(world / "truth.npz"))
    odd = truth["kind"][rows_of(truth["track_ids"], corpus.track_ids)] != "song"
    style = pl.read_parquet(world / "tracks.parquet")["style"].to_numpy()
    factors = load_factors(run / "factors.npz")
    row, unit = corpus.track_rows(factors.track_ids), unit_rows(factors.item_factors)
    rng = np.random.default_rng(rng_seed)

    def artists() -> Iterator[List]:
        for artist in np.unique(corpus.artist):
            rows = np.flatnonzero(corpus.artist == artist)
            yield rows, odd[rows]

    def neighbours() -> Iterator[List]:
        for song in np.flatnonzero(~odd[row])[::4].tolist():
            rows = row[np.argsort(-(unit @ unit[song]), kind="stable")[:NEIGHBOURS]]
            yield rows, odd[rows]

    def styles() -> Iterator[List]:
        for name in np.unique(style).repeat(DRAWS):
            inside = rng.choice(np.flatnonzero(style == name), OF_STYLE, replace=False)
            outside = rng.choice(np.flatnonzero(style != name), OF_OTHERS, replace=False)
            yield np.concatenate([inside, outside]), np.arange(OF_STYLE + OF_OTHERS) >= OF_STYLE

    return {"an artist": artists(), "CF's neighbours": neighbours(), "a style": styles()}


def _to_mean(vectors: np.ndarray) -> np.ndarray:
    """The cosine of each vector to the mean of all others."""
    others = vectors.sum(axis=0) - vectors
    cosine: np.ndarray = (others * vectors).sum(axis=1) / np.linalg.norm(others, axis=1)
    return cosine


def _precision(fit: np.ndarray, odd: np.ndarray) -> tuple[float, float]:
    """Of as many as are odd, those that fit least; and of as many at random."""
    named = np.argsort(fit, kind="stable")[: odd.sum()]
    return float(odd[named].mean()), float(odd.mean())


if __name__ == "__main__":
    main()
