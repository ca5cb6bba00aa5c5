"""What the page shows, from what the run holds."""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cbmr.corpus import Corpus, Plays, rows_of
from cbmr.factors import Factors
from cbmr.priors import fold_in

LEAST_LISTENERS = 10
"""The factors of a held-out track with fewer say too little to be missed by."""
OF_NUMBERS = re.compile(r"(?P<split>\w+) / (?P<column>.+) / (?P<row>.+) / (?P<metric>.+)")
FEW_PLAYS = "few plays"
"""What the table of tracks with few plays has for a column."""


@dataclass(frozen=True)
class Curve:
    """A number of a training by epoch, counted from 1: `points` are (epoch, value)."""

    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class EvaluationRow:
    """A row of the evaluation's table in one of its columns: `cells` are value, low and high by
    metric."""

    split: str
    column: str
    row: str
    cells: dict[str, tuple[float, float, float]]


def curves(logs: Path) -> list[Curve]:
    """The curves of a stage's `logs`, by name: of `metrics.csv`, and of `metrics-1.csv` and so on
    from before each interruption. Of an epoch that was trained twice the later numbers count."""
    points: dict[str, dict[int, float]] = defaultdict(dict)
    before = sorted(logs.glob("metrics-*.csv"), key=lambda path: int(path.stem.split("-")[1]))
    for path in (*before, logs / "metrics.csv"):
        if not path.exists():
            continue  # nothing was left to train
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                for name, text in line.items():
                    known = name not in ("epoch", "step") and text
                    if known and np.isfinite(float(text)):
                        points[name][int(line["epoch"]) + 1] = float(text)
    return [Curve(name, tuple(sorted(of.items()))) for name, of in sorted(points.items())]


def evaluation_rows(numbers: Mapping[str, float]) -> list[EvaluationRow]:
    """The rows of `evaluation/metrics.json`, in its order; that of tracks with few plays is a
    column of its own.

    By hand: of `test / new artist / ridge / AUC`, .7, and the same with ` low`, .6, and ` high`,
    .8, comes the row ridge of the column new artist, whose AUC is (.7, .6, .8).
    """
    rows: dict[tuple[str, str, str], dict[str, tuple[float, float, float]]] = defaultdict(dict)
    for name, value in numbers.items():
        found = OF_NUMBERS.fullmatch(name)
        if found and not name.endswith((" low", " high")):
            low, high = (numbers.get(f"{name} {end}", value) for end in ("low", "high"))
            rows[found["split"], found["column"], found["row"]][found["metric"]] = value, low, high
    return [EvaluationRow(*place, cells) for place, cells in rows.items()]


def typical_tracks(vectors: np.ndarray, groups: np.ndarray, n: int) -> list[int]:
    """The most typical track of each of the `n` largest groups, as rows of unit `vectors`
    `[tracks, size]`: the one whose cosine to its group's mean is the highest. `groups` is text
    `[tracks]`, empty where a track is in none; of equally large ones the first by name come.

    By hand: of (1, 0), (.6, .8) and (0, 1) in one group the mean points to (.66, .75), so the
    second.
    """
    names, sizes = np.unique(groups[groups != ""], return_counts=True)
    largest = names[np.argsort(-sizes, kind="stable")[:n]]
    typical = []
    for name in largest:
        members = np.flatnonzero(groups == name)
        typical.append(int(members[np.argmax(vectors[members] @ vectors[members].sum(axis=0))]))
    return typical


@dataclass(frozen=True)
class HeldOutFit:
    """How well the sound of held-out tracks foretells who plays them: rows of the corpus, the
    cosine of the prediction to the factors that a track's plays give, and how many listeners these
    are of, each `[n]`, the worst first."""

    rows: np.ndarray
    cosine: np.ndarray
    listeners: np.ndarray


def held_out_fit(
    corpus: Corpus, factors: Factors, predicted: np.ndarray, *, model: Mapping[str, float]
) -> HeldOutFit:
    """The fit of validation and test tracks, whose factors are folded in from their plays.

    `predicted` is `[tracks, factors]`, unit vectors, zeros for a track without audio; `model` is
    the settings of `fold_in` that `factors` were fitted with. Tracks with fewer than
    `LEAST_LISTENERS` listeners that have factors are left out.
    """
    plays = corpus.plays
    assert plays is not None
    tracks = np.concatenate([corpus.in_split("valid"), corpus.in_split("test")])
    tracks = tracks[predicted[tracks].any(axis=1)]
    place = np.full(len(corpus.track_ids), -1)
    place[tracks] = np.arange(len(tracks))
    user = rows_of(factors.user_ids, corpus.user_ids)[plays.user]
    here = (user >= 0) & (place[plays.track] >= 0)
    heard = Plays(user[here], place[plays.track[here]], plays.count[here])
    folded = fold_in(factors.user_factors, heard, len(tracks), **model)
    listeners = np.bincount(heard.track, minlength=len(tracks))
    enough = listeners >= LEAST_LISTENERS
    norms = np.linalg.norm(folded[enough], axis=1)
    cosines = (folded[enough] * predicted[tracks[enough]]).sum(axis=1) / np.maximum(norms, 1e-12)
    order = np.argsort(cosines, kind="stable")
    return HeldOutFit(tracks[enough][order], cosines[order], listeners[enough][order])
