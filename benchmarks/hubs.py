"""What corrections of hubs do to lists and to thumbs: `python -m benchmarks.hubs [FOLDER]`.

On the three demo worlds of `benchmarks.worlds` in FOLDER (default `runs/worlds`), the first
training of each, of stage 2's vectors and, where hubs are many, of mel statistics (means and
deviations of the log-mel's bands, standardised, at unit norm). With S the cosines, d the distances
and r(k) the mean cosine to the k nearest, the rows order what a track x is near to by

    local scaling, k        S(q, x) - r(x) / 2              (CSLS, Conneau et al. 2018)
    scaled distance, k      -d(q, x) / sqrt(m(q) m(x)),     m the mean distance to the k nearest
                            (NICDM, Schnitzer et al. 2012)
    mutual proximity        log P(s_q < S) + log P(s_x < S), s normal by each track's own cosines
                            (Gaussian, independent; Schnitzer et al. 2012)
    centring                local scaling over all tracks, which is a product less the mean vector's

"skew" is of the k-occurrence at 10, "in no list" the share of tracks that stand in none, "most" the
largest k-occurrence. Lists of ten of the test tracks are then judged by what no training saw: the
same artist, the same style, and how much their listeners are those of the query (cosine of who
played each). Thumbs AUC is of the test votes by the score of (seed, track), over all and within
stations of one seed. Differences from no correction have 95 % intervals of a bootstrap that draws
artists and, for votes, listeners again, the same for all rows. The table goes to RESULTS.md,
between its marks. All of it is simulated.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import norm, skew

from benchmarks.results import write_between
from benchmarks.worlds import EXCERPT_S, WORLDS
from cbmr.corpus import Corpus, Thumbs, votes_of
from cbmr.encoder import load_encoder
from cbmr.evaluation.baselines import mel_statistics
from cbmr.factors import unit_rows
from cbmr.hubs import DEPTH, NEAREST
from cbmr.metrics import pooled_auc
from cbmr.sources.tables import read_corpus
from cbmr.spectrograms import SpectrogramStore, store_folder
from cbmr.vectors import aligned, load_vectors
from tasks.evaluate import SIMULATED

BOOTSTRAPS = 200
BEGIN, END = "<!-- hubs -->", "<!-- end of hubs -->"
COUNTED = ("skew", "in no list", "most")
JUDGED = ("same artist", "same style", "listeners", "thumbs AUC", "thumbs within seed")
OURS = f"local scaling, {NEAREST}"


@dataclass(frozen=True)
class Answer:
    """One row in one world: the `COUNTED` numbers, the `JUDGED` ones, and these `[draws, 5]`."""

    counted: np.ndarray
    judged: np.ndarray
    draws: np.ndarray


def main() -> None:
    """Print the table of each kind of vectors, and write both to RESULTS.md."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    lines = [f"{SIMULATED} Mean of {WORLDS} worlds; skew of each.", ""]
    answers: dict[str, list[Mapping[str, Answer]]] = {}
    for world in range(WORLDS):
        corpus = read_corpus(folder / f"world{world}", needs=["plays", "thumbs"])
        styles = pl.read_parquet(corpus.folder / "tracks.parquet")["style"].to_numpy()
        for kind, vectors in _vectors(corpus, folder / f"world{world}-training0").items():
            judge = _judge(corpus, styles, world)
            rows = {name: judge(score) for name, score in _scores(vectors).items()}
            answers.setdefault(kind, []).append(rows)
    for kind, worlds in answers.items():
        lines += [f"**{kind}**", "", *_rows(worlds), "", *_differences(worlds), ""]
    text = "\n".join(lines).rstrip()
    write_between(BEGIN, END, text)
    print(text)


def _vectors(corpus: Corpus, run: Path) -> dict[str, np.ndarray]:
    spec = load_encoder(run / "regress" / "encoder.pt").mel_spec
    assert spec is not None
    store = SpectrogramStore(store_folder(run / "spectrograms", spec, EXCERPT_S))
    assert np.array_equal(store.track_ids, corpus.track_ids)
    mel = mel_statistics(store)
    return {
        "Stage 2": aligned(corpus, load_vectors(run / "rank" / "embeddings.npz")),
        "Mel statistics": unit_rows((mel - mel.mean(axis=0)) / mel.std(axis=0)),
    }


def _scores(vectors: np.ndarray) -> dict[str, np.ndarray]:
    """`[tracks, tracks]` by row: how near the second is to the first."""
    cosines = (vectors @ vectors.T).astype(np.float64)
    others = ~np.eye(len(cosines), dtype=bool)
    each = cosines[others].reshape(len(cosines), -1)
    falling = -np.sort(-each, axis=1)
    distances = np.sqrt(np.maximum(0, 2 - 2 * cosines))
    scores = {"none": cosines}
    for k in (10, NEAREST, 100):
        scores[f"local scaling, {k}"] = cosines - falling[:, :k].mean(axis=1) / 2
    near = np.sqrt(2 - 2 * falling[:, :NEAREST]).mean(axis=1)
    scores[f"scaled distance, {NEAREST}"] = -distances / np.sqrt(np.outer(near, near))
    mean, spread = each.mean(axis=1)[:, None], each.std(axis=1)[:, None]
    lower = norm.logcdf((cosines - mean) / spread)
    scores["mutual proximity"] = lower + lower.T
    scores["centring"] = cosines - each.mean(axis=1)
    return scores


def _judge(corpus: Corpus, styles: np.ndarray, world: int) -> Callable[[np.ndarray], Answer]:
    """What judges a row in one world, by the same draws for all."""
    assert corpus.plays is not None
    tests, votes = corpus.in_split("test"), votes_of(corpus, "test")
    played = np.zeros((len(corpus.user_ids), len(corpus.track_ids)))
    played[corpus.plays.user, corpus.plays.track] = 1
    played /= np.maximum(np.linalg.norm(played, axis=0), 1)
    common = played.T @ played
    artists, artist = np.unique(corpus.artist, return_inverse=True)
    rng = np.random.default_rng(world)
    number, listeners = len(artists), len(corpus.user_ids)
    draws = [
        (
            rng.multinomial(number, np.full(number, 1 / number))[artist],
            rng.multinomial(listeners, np.full(listeners, 1 / listeners)),
        )
        for _ in range(BOOTSTRAPS)
    ]

    def judge(score: np.ndarray) -> Answer:
        ranked = np.where(np.eye(len(score), dtype=bool), -np.inf, score)
        near = np.argsort(-ranked, axis=1, kind="stable")[:, :DEPTH]
        counts = np.bincount(near.ravel(), minlength=len(score))
        counted = np.array([skew(counts), np.mean(counts == 0), counts.max()])
        of_tests, here = near[tests], tests[:, None]
        lists = np.stack([
            (corpus.artist[of_tests] == corpus.artist[here]).mean(axis=1),
            (styles[of_tests] == styles[here]).mean(axis=1),
            common[here, of_tests].mean(axis=1),
        ])  # fmt: skip
        likeness = score[votes.seed, votes.track]

        def numbers(of_tracks: np.ndarray, of_users: np.ndarray) -> np.ndarray:
            copies = of_tracks[votes.track] * of_users[votes.user]
            return np.array([
                *np.average(lists, axis=1, weights=of_tracks[tests]),
                pooled_auc(likeness, votes.up, copies),
                _within_seed(likeness, votes, copies),
            ])  # fmt: skip

        once = numbers(np.ones(len(score)), np.ones(listeners))
        return Answer(counted, once, np.array([numbers(*draw) for draw in draws]))

    return judge


def _within_seed(likeness: np.ndarray, votes: Thumbs, copies: np.ndarray) -> float:
    """The share of (up, down) pairs of one seed in the right order, ties half."""
    right = pairs = 0.0
    order = np.argsort(votes.seed, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(votes.seed[order])) + 1):
        up, of = votes.up[members], copies[members]
        weight = of[up].sum() * of[~up].sum()
        if weight:
            right += weight * pooled_auc(likeness[members], up, of)
            pairs += weight
    return right / pairs


def _rows(worlds: list[Mapping[str, Answer]]) -> list[str]:
    lines = [f"| row | {' | '.join((*COUNTED, *JUDGED))} |", "|---" * 9 + "|"]
    for name in worlds[0]:
        skews = " / ".join(f"{world[name].counted[0]:.2f}" for world in worlds)
        counted = np.mean([world[name].counted for world in worlds], axis=0)
        judged = np.mean([world[name].judged for world in worlds], axis=0)
        cells = [skews, f"{counted[1]:.3f}", f"{counted[2]:.0f}", *(f"{v:.3f}" for v in judged)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _differences(worlds: list[Mapping[str, Answer]]) -> list[str]:
    lines = [f"| difference from none, 95 % interval | {' | '.join(JUDGED)} |", "|---" * 6 + "|"]
    for name in worlds[0]:
        if name == "none":
            continue
        value = np.mean([world[name].judged - world["none"].judged for world in worlds], axis=0)
        draws = np.mean([world[name].draws - world["none"].draws for world in worlds], axis=0)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        cells = [f"{v:+.3f} [{a:+.3f}, {b:+.3f}]" for v, a, b in zip(value, low, high, strict=True)]
        shown = f"**{name}**" if name == OURS else name
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
