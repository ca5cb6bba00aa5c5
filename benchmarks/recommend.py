"""Who gets a chance in recommendations: `python -m benchmarks.recommend [FOLDER]`.

On the demo worlds of `benchmarks.worlds` in FOLDER (default `runs/worlds`), the first training of
each. What is asked for is hidden: a tenth of the plays of training and validation tracks, and those
of test tracks, of which a third keeps none, a third 1 to 3 and a third 4 to 10 listeners, drawn at
random. WMF is fitted again to the training plays that are left, and what a stage says of the sound
is turned into the new space by the rotation that brings the old factors nearest (Schonemann
1966). The stage itself was trained with the hidden tenth: that can only help content, and only
where a track has been played.

Every listener's list is of the 50 tracks with the highest score among all that are unheard.
"Recall@50" is the share of a listener's hidden plays in it, "AUC" how well hidden plays are told
from other unheard tracks of the same column, "places" whom the lists' places go to. Columns are
tracks by the listeners that are left to them. Intervals are of a bootstrap over listeners.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import orthogonal_procrustes

from benchmarks.worlds import WORLDS
from cbmr.corpus import Corpus, Plays, known_artist, rows_of, training_plays
from cbmr.factors import Factors, factorize, load_factors, unit_rows
from cbmr.few_plays import choose_k
from cbmr.files import read_json
from cbmr.metrics import pooled_auc, rank
from cbmr.playlists import Catalogue, make_rules
from cbmr.recommend import audience, blended_tracks, cf_items, recommend
from cbmr.sources.tables import read_corpus
from cbmr.vectors import Vectors, aligned, load_vectors
from tasks.evaluate import SIMULATED

DEPTH, BOOTSTRAPS, AUDIENCE = 50, 1000, 100
HIDDEN = 0.1
FEWEST, MOST = (0, 1, 4), (0, 3, 10)
COLUMNS = ("no plays", "1 to 3", "4 to 10", "more")
CAPS: dict[str, Any] = {"max_per_artist": 5, "max_per_album": 3}
HEADS = (
    *(f"recall@50: {column}" for column in (*COLUMNS, "all")),
    *(f"AUC: {column}" for column in COLUMNS),
    *(f"places: {column}" for column in (*COLUMNS, "new artists")),
    "Gini over artists",
)
COMPARED = ("places: no plays", "places: new artists", "Gini over artists")
PAIRS = (
    ("blend", "popularity"),
    ("blend", "CF"),
    ("blend", "content"),
    ("blend", "truth"),
    ("blend, less the mean listener", "blend"),
)


@dataclass(frozen=True)
class Answer:
    """A row in one world: `recall` `[columns + 1, listeners]`, the last of all, and `auc`
    `[columns, listeners]`, NaN where nothing is hidden; `places` `[columns + 1, listeners]`, the
    share of the list, the last of new artists; `exposure` `[listeners, artists]` counts."""

    recall: np.ndarray
    auc: np.ndarray
    places: np.ndarray
    exposure: np.ndarray


def main() -> None:
    """Print Markdown tables: rows, differences, and audiences."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/worlds")
    worlds, shares, audiences = [], [], []
    for world in range(WORLDS):
        answers, share, reached = _world(folder / f"world{world}", folder, world)
        worlds.append(answers)
        shares.append(share)
        audiences.append(reached)
    print(f"\n{SIMULATED} Mean of {len(worlds)} worlds.\n")
    _print_rows(worlds, np.mean(shares, axis=0))
    _print_differences(worlds)
    print(f"\n| new tracks, by their sound | AUC over listeners | precision@{AUDIENCE} |")
    print("|---|---|---|")
    for name in audiences[0]:
        auc, precision = np.mean([reached[name] for reached in audiences], axis=0)
        print(f"| {name} | {auc:.3f} | {precision:.3f} |")


def _world(
    folder: Path, runs: Path, world: int
) -> tuple[dict[str, Answer], np.ndarray, dict[str, tuple[float, float]]]:
    run = runs / f"world{world}-training0"
    corpus = read_corpus(folder, needs=["plays"])
    plays = corpus.plays
    assert plays is not None
    made = read_json(run / "factors.json")
    model = made["options"]
    shown = _shown(corpus, np.random.default_rng(world))
    left = replace(corpus, plays=shown)
    factors = factorize(
        training_plays(left), left.track_ids, left.user_ids, report=lambda _: None, **model
    )
    content = _turned(load_vectors(run / "rank/embeddings.npz"), load_factors(run / "factors.npz"),
                      factors)  # fmt: skip
    listeners = rows_of(corpus.user_ids, factors.user_ids)
    chosen = choose_k(
        left, factors, aligned(left, content), np.sort(listeners), model=model, rng_seed=0
    )
    assert chosen is not None
    blended = blended_tracks(left, factors, content, k=chosen[0], model=model)
    cf, number = cf_items(left, factors, model=model)
    users = factors.user_factors
    truth = dict(np.load(folder / "truth.npz"))
    tastes = truth["user_taste"][rows_of(truth["user_ids"], factors.user_ids)]
    liked = tastes @ truth["track_taste"][rows_of(truth["track_ids"], corpus.track_ids)].T
    length = np.linalg.norm(cf + 1e-12, axis=1, keepdims=True)
    unit_cf = np.where(cf.any(axis=1, keepdims=True), cf / length, 0)
    scores = {
        "popularity": np.broadcast_to(number.astype(float), liked.shape),
        "CF": users @ cf.T,
        "CF, unit norm": users @ unit_cf.T,
        "content": users @ aligned(corpus, content).T,
        "blend": users @ aligned(corpus, blended).T,
        "blend, less the mean listener": (users - users.mean(axis=0)) @ aligned(corpus, blended).T,
        "truth": liked,
    }
    scores["blend with caps"] = _capped(left, factors, blended, scores["blend"])
    heard = np.zeros(liked.shape, dtype=bool)
    place = rows_of(factors.user_ids, corpus.user_ids)
    known = place[shown.user] >= 0
    heard[place[shown.user[known]], shown.track[known]] = True
    played = np.zeros_like(heard)
    known = place[plays.user] >= 0
    played[place[plays.user[known]], plays.track[known]] = True
    column = np.digitize(number, (1, 4, 11))
    new = ~known_artist(corpus)
    _, artist = np.unique(corpus.artist, return_inverse=True)
    print(
        f"world {world}: k = {chosen[0]:g}; tracks by plays left {np.bincount(column).tolist()}, "
        f"hidden plays {[int((played & ~heard)[:, column == each].sum()) for each in range(4)]}, "
        f"{int(new.sum())} tracks of new artists",
        flush=True,
    )
    answers = {
        name: _answer(score, heard, played, column, new, artist) for name, score in scores.items()
    }
    candidates = ~heard
    share = np.array([candidates[:, column == each].sum() for each in range(4)]
                     + [candidates[:, new].sum()]) / candidates.sum()  # fmt: skip
    return answers, share, _audiences(factors, content, corpus, played, number)


def _shown(corpus: Corpus, rng: np.random.Generator) -> Plays:
    """The plays that are not hidden."""
    plays = corpus.plays
    assert plays is not None
    kept = rng.random(len(plays.user)) >= HIDDEN
    for order, track in enumerate(rng.permutation(corpus.in_split("test")).tolist()):
        of_track = rng.permutation(np.flatnonzero(plays.track == track))
        number = rng.integers(FEWEST[order % 3], MOST[order % 3] + 1)
        kept[of_track] = False
        kept[of_track[:number]] = True
    return Plays(plays.user[kept], plays.track[kept], plays.count[kept])


def _turned(content: Vectors, old: Factors, new: Factors) -> Vectors:
    """Content vectors in the space of the new factors."""
    both = np.intersect1d(old.track_ids, new.track_ids)
    before = unit_rows(old.item_factors[rows_of(old.track_ids, both)])
    after = unit_rows(new.item_factors[rows_of(new.track_ids, both)])
    rotation = orthogonal_procrustes(before, after)[0]
    cosine = ((before @ rotation) * after).sum(axis=1).mean()
    print(f"old factors, turned, to new ones: mean cosine {cosine:.3f}", flush=True)
    return Vectors(content.track_ids, unit_rows(content.vectors @ rotation))


def _capped(corpus: Corpus, factors: Factors, blended: Vectors, scores: np.ndarray) -> np.ndarray:
    """The blend's scores, with what `recommend` lists under its default caps above all else."""
    catalogue = Catalogue(corpus, blended)
    rules = make_rules(artist_spacing=1, **CAPS)
    capped = scores.copy()
    for place, user in enumerate(rows_of(corpus.user_ids, factors.user_ids).tolist()):
        listed = recommend(catalogue, factors, user, rules, n=DEPTH).entries
        rows = [catalogue.row_of_id[entry.track_id or ""] for entry in listed]
        capped[place, rows] += 1000
    return capped


def _answer(
    scores: np.ndarray,
    heard: np.ndarray,
    played: np.ndarray,
    column: np.ndarray,
    new: np.ndarray,
    artist: np.ndarray,
) -> Answer:
    scores = np.where(heard, -np.inf, np.round(scores, 6))
    hidden = played & ~heard
    first = rank(scores, hidden, np.random.default_rng(0)).order.track[:, :DEPTH]
    listed = np.zeros_like(heard)
    np.put_along_axis(listed, first, True, axis=1)
    recall, auc, places = [], [], []
    for each in range(len(COLUMNS)):
        here = column == each
        recall.append(_ratio((hidden & listed)[:, here].sum(axis=1), hidden[:, here].sum(axis=1)))
        places.append(listed[:, here].mean(axis=1) * here.sum() / DEPTH)
        auc.append([_auc(*rows) for rows in zip(scores[:, here], hidden[:, here], heard[:, here],
                                                strict=True)])  # fmt: skip
    recall.append(_ratio((hidden & listed).sum(axis=1), hidden.sum(axis=1)))
    places.append(listed[:, new].sum(axis=1) / DEPTH)
    exposure = np.zeros((len(heard), artist.max() + 1))
    for number in range(exposure.shape[1]):
        exposure[:, number] = listed[:, artist == number].sum(axis=1)
    return Answer(np.array(recall), np.array(auc), np.array(places), exposure)


def _ratio(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.where(wanted > 0, found / np.maximum(wanted, 1), np.nan)


def _auc(scores: np.ndarray, hidden: np.ndarray, heard: np.ndarray) -> float:
    return pooled_auc(scores[~heard], hidden[~heard])


def _audiences(
    factors: Factors, content: Vectors, corpus: Corpus, played: np.ndarray, number: np.ndarray
) -> dict[str, tuple[float, float]]:
    """How well listeners of tracks without plays are found: by the inner product that `audience`
    ranks by, by the cosine, and by how many training plays a listener has, `(AUC, precision)`."""
    by_cosine = replace(factors, user_factors=unit_rows(factors.user_factors))
    active = played[:, corpus.in_split("train")].sum(axis=1).astype(np.float32)
    by_activity = replace(factors, user_factors=np.outer(active, np.ones(content.vectors.shape[1])))
    vectors = aligned(corpus, content)
    tracks = np.flatnonzero((number == 0) & (played.sum(axis=0) >= 5) & vectors.any(axis=1))
    ones = np.ones(vectors.shape[1])
    rows = {
        "inner product": (factors, vectors),
        "cosine": (by_cosine, vectors),
        "most active listeners": (by_activity, np.broadcast_to(ones, vectors.shape)),
    }
    found = {}
    for name, (who, what) in rows.items():
        values = []
        for track in tracks.tolist():
            ids, scores = audience(who, what[track], n=len(who.user_ids))
            relevant = played[rows_of(factors.user_ids, ids), track]
            values.append((pooled_auc(scores, relevant), relevant[:AUDIENCE].mean()))
        found[name] = tuple(np.mean(values, axis=0).tolist())
    chance = float(played[:, tracks].mean())
    return {**found, "chance": (0.5, chance)}


# --- printing -----------------------------------------------------------------------------------


def _print_rows(worlds: list[dict[str, Answer]], share: np.ndarray) -> None:
    means = {
        name: np.mean([_summary(world[name]) for world in worlds], axis=0) for name in worlds[0]
    }
    told = len(COLUMNS) * 2 + 1
    for columns in (range(told), range(told, len(HEADS))):
        print(f"| row | {' | '.join(HEADS[at] for at in columns)} |")
        print("|---" * (len(columns) + 1) + "|")
        for name, values in means.items():
            print(f"| {name} | {' | '.join(f'{values[at]:.3f}' for at in columns)} |")
        if columns[0] == told:
            print(f"| all unheard tracks | {' | '.join(f'{each:.3f}' for each in share)} | |")
        print()


def _print_differences(worlds: list[dict[str, Answer]]) -> None:
    kept = [at for at, head in enumerate(HEADS) if head.startswith("recall") or head in COMPARED]
    print(f"| difference, 95 % interval | {' | '.join(HEADS[at] for at in kept)} |")
    print("|---" * (len(kept) + 1) + "|")
    draws: dict[str, list[np.ndarray]] = {}
    for number, world in enumerate(worlds):
        rng = np.random.default_rng(number)
        listeners = len(world["blend"].exposure)
        copies = [rng.integers(0, listeners, listeners) for _ in range(BOOTSTRAPS)]
        for name in {name for pair in PAIRS for name in pair}:
            drawn = np.array([_summary(world[name], each) for each in copies])
            draws.setdefault(name, []).append(drawn)
    for one, other in PAIRS:
        value = np.mean([_summary(w[one]) - _summary(w[other]) for w in worlds], axis=0)
        spread = np.mean(draws[one], axis=0) - np.mean(draws[other], axis=0)
        low, high = np.quantile(spread, [0.025, 0.975], axis=0)
        cells = (f"{value[at]:+.3f} [{low[at]:+.3f}, {high[at]:+.3f}]" for at in kept)
        print(f"| {one} - {other} | {' | '.join(cells)} |")


def _summary(answer: Answer, drawn: np.ndarray | slice = slice(None)) -> np.ndarray:
    """What `HEADS` name, of the listeners drawn."""
    means = [np.nanmean(answer.recall[:, drawn], axis=1), np.nanmean(answer.auc[:, drawn], axis=1),
             answer.places[:, drawn].mean(axis=1)]  # fmt: skip
    return np.append(np.concatenate(means), gini(answer.exposure[drawn].sum(axis=0)))


def gini(amounts: np.ndarray) -> float:
    """0 where all have the same, towards 1 where one has everything:
    `sum (2 i - n - 1) x_i / (n sum x)`, x rising.

    By hand: of 0 and 1 it is (-1 * 0 + 1 * 1) / (2 * 1) = 0.5.
    """
    rising, number = np.sort(amounts), len(amounts)
    weights = 2 * np.arange(1, number + 1) - number - 1
    return float((weights * rising).sum() / (number * rising.sum()))


if __name__ == "__main__":
    main()
