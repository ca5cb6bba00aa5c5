"""Evidence beside thumbs against worked examples and plain loops, and the questions of a survey."""

from itertools import combinations, islice

import numpy as np
import pytest

from cbmr.corpus import Exposures, Thumbs, Triplets
from cbmr.errors import InputError
from cbmr.evidence import (
    next_three,
    odd_one_out_votes,
    on_rows,
    station_group,
    weaker_votes,
)

NO_THUMBS = Thumbs(*np.empty((3, 0), dtype=int), np.empty(0, dtype=bool))


def listed(votes):
    columns = [column.tolist() for column in vars(votes).values()]
    return list(zip(*columns, strict=True))


# --- skips and plays ----------------------------------------------------------------------------


def test_the_docstrings_example():
    """Listener 1, seed 3: 20 % of 4, 60 % of 5, all of 6."""
    exposures = Exposures(*np.array([[1] * 3, [3] * 3, [4, 5, 6]]), np.array([0.2, 0.6, 1.0]))
    votes = weaker_votes(exposures, NO_THUMBS, skips=0.3, completions=0.1, plays=0.05)
    group = 2**32 + 3
    assert listed(votes) == [(1, 3, 4, False, 0.3, group), (1, 3, 6, True, 0.1, group)]


def test_evidence_moves_with_its_tracks():
    """Tracks 3, 4 and 6 go to rows 0, 2 and nowhere: the station is of row 0 then, and what was
    heard of 6 is left out. An answer's groups stay its own."""
    exposures = Exposures(*np.array([[1] * 2, [3] * 2, [4, 6]]), np.array([0.2, 1.0]))
    votes = weaker_votes(exposures, NO_THUMBS, skips=0.3, completions=0.1, plays=0.0)
    rows = np.array([9, 9, 9, 0, 2, 9, -1])
    assert listed(on_rows(votes, rows)) == [(1, 0, 2, False, 0.3, 2**32)]
    answer = odd_one_out_votes(Triplets(*np.array([[-1], [3], [4], [0]])), weight=1.0)
    assert on_rows(answer, rows).group.tolist() == [-1, -1, -2, -2]


@pytest.mark.parametrize("weights", [(0.4, 0.2, 0.1), (0.4, 0.0, 0.0), (0, 0.2, 0), (0, 0, 0.1)])
def test_weaker_votes_against_a_loop(weights):
    """Shares that are unknown, below, at and between both bounds; a third of the exposures voted
    on; a listener's, a seed's and a track's number are often the same."""
    rng = np.random.default_rng(0)
    shares = np.array([np.nan, 0.0, 0.49, 0.5, 0.7, 0.79, 0.8, 1.0, 1.7])
    rows = np.array(sorted({tuple(row) for row in rng.integers(0, 9, (500, 3)).tolist()})).T
    exposures = Exposures(*rows, rng.choice(shares, rows.shape[1]))
    of_votes = rows[:, rng.random(rows.shape[1]) < 1 / 3]
    thumbs = Thumbs(*of_votes, rng.random(of_votes.shape[1]) < 0.5)
    voted = {*map(tuple, of_votes.T.tolist())}
    skips, completions, plays = weights
    expected = []
    for user, seed, track, share in zip(*rows.tolist(), exposures.played_ratio, strict=True):
        if (user, seed, track) in voted or seed == track:
            continue
        if np.isnan(share):
            up, weight = True, plays
        elif share < 0.5:
            up, weight = False, skips
        elif share >= 0.8:
            up, weight = True, completions
        else:
            continue
        if weight:
            expected.append((user, seed, track, up, weight, user * 2**32 + seed))
    votes = weaker_votes(exposures, thumbs, skips=skips, completions=completions, plays=plays)
    assert len(expected) > 10
    assert listed(votes) == expected


def test_a_station_has_the_same_number_in_every_table():
    rng = np.random.default_rng(0)
    user, seed = rng.integers(0, 2**31, (2, 1000))
    pairs = zip(user.tolist(), seed.tolist(), strict=True)
    numbers = station_group(np.concatenate([user, user]), np.concatenate([seed, seed]))
    assert (numbers >= 0).all()
    assert len(np.unique(numbers)) == len({*pairs})
    np.testing.assert_array_equal(numbers[:1000], numbers[1000:])
    small = station_group(user.astype(np.int32), seed.astype(np.int32))
    np.testing.assert_array_equal(small, numbers[:1000])


def test_skips_without_a_known_share_are_refused():
    exposures = Exposures(*np.array([[0, 0], [1, 1], [2, 3]]), np.full(2, np.nan))
    for weights in ({"skips": 0.1, "completions": 0.0}, {"skips": 0.0, "completions": 0.1}):
        with pytest.raises(InputError, match="expected a column 'played_ratio'"):
            weaker_votes(exposures, NO_THUMBS, plays=0.1, **weights)
    assert weaker_votes(exposures, NO_THUMBS, skips=0, completions=0, plays=1).up.all()


def test_no_exposures_make_no_votes():
    none = Exposures(*np.empty((3, 0), dtype=int), np.empty(0))
    assert listed(weaker_votes(none, NO_THUMBS, skips=1, completions=1, plays=1)) == []


# --- odd one out --------------------------------------------------------------------------------


def test_an_answer_is_four_votes_in_two_groups():
    """7 and 8 belong together, 9 is odd; then listener 3 says so of 8 and 5, and 7 is odd."""
    triplets = Triplets(*np.array([[-1, 3], [7, 8], [8, 5], [9, 7]]))
    assert listed(odd_one_out_votes(triplets, weight=0.5)) == [
        (-1, 7, 8, True, 0.5, -1),
        (-1, 7, 9, False, 0.5, -1),
        (-1, 8, 7, True, 0.5, -2),
        (-1, 8, 9, False, 0.5, -2),
        (3, 8, 5, True, 0.5, -3),
        (3, 8, 7, False, 0.5, -3),
        (3, 5, 8, True, 0.5, -4),
        (3, 5, 7, False, 0.5, -4),
    ]


def test_the_pairs_within_its_groups_are_what_an_answer_says():
    """Each group's up before its down, by a loop: b before odd on a, a before odd on b."""
    rng = np.random.default_rng(0)
    rows = np.array([rng.choice(50, 3, replace=False) for _ in range(200)]).T
    votes = listed(odd_one_out_votes(Triplets(np.full(200, -1), *rows), weight=1.0))
    pairs = [
        (up[1], up[2], down[2])
        for up, down in combinations(votes, 2)
        if up[5] == down[5] and up[3] and not down[3]
    ]
    expected = [pair for a, b, odd in rows.T.tolist() for pair in ((a, b, odd), (b, a, odd))]
    assert pairs == expected


# --- questions ----------------------------------------------------------------------------------


def questions(tracks, vectors=None, rng_seed=0):
    """Every question until there is none, each drawn as a survey draws it."""
    asked = []
    while True:
        rng = np.random.default_rng([rng_seed, len(asked)])
        three = next_three(np.array(tracks), [frozenset(x) for x in asked], rng, vectors)
        if three is None:
            return
        asked.append(three.tolist())
        yield asked[-1]


def circle(*degrees):
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.mark.parametrize("vectors", [None, circle(0, 2, 5, 100, 181, 181)])
def test_every_three_is_asked_once_and_then_none(vectors):
    tracks = [2, 3, 5, 7, 11, 13]
    asked = [*questions(tracks, vectors)]
    assert sorted(tuple(sorted(three)) for three in asked) == [*combinations(tracks, 3)]
    assert [*questions(tracks, vectors)] == asked
    assert [*questions(tracks, vectors, rng_seed=1)] != asked


def test_answers_on_other_tracks_are_not_counted():
    others = [frozenset((1, 2, 9)), frozenset((-1, 5))]
    three = next_three(np.array([1, 2, 3]), others, np.random.default_rng(0))
    assert sorted(three.tolist()) == [1, 2, 3]


def test_questions_are_those_that_vectors_cannot_answer():
    """Tracks at 0, 10, 21 and 90 degrees: where the first two are among the first three, so is the
    third. Each of the six pairs is drawn as often as another, and three of them are without 90."""
    first = [next(questions(range(4), circle(0, 10, 21, 90), rng_seed=n)) for n in range(200)]
    without = sum(3 not in three for three in first)
    assert 60 < without < 140


def test_questions_on_vectors_are_less_certain_than_any():
    """The margin between the two most alike of the three pairs, and how alike they are: near ones,
    of which the vectors cannot tell the odd one."""
    vectors = np.random.default_rng(0).standard_normal((300, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def told(three):
        i, j, k = three
        alike = sorted([vectors[i] @ vectors[j], vectors[i] @ vectors[k], vectors[j] @ vectors[k]])
        return alike[2] - alike[1], alike[2]

    chosen = np.array([told(three) for three in islice(questions(range(300), vectors), 100)])
    drawn = np.array([told(three) for three in islice(questions(range(300)), 100)])
    assert np.median(chosen[:, 0]) < 0.05 * np.median(drawn[:, 0])
    assert np.median(chosen[:, 1]) > np.median(drawn[:, 1]) + 0.2


def test_the_odd_one_stands_anywhere():
    """Whatever order the rule found them in, each of the three places has the largest row as often
    as another."""
    places = [
        int(np.argmax(next_three(np.arange(3), [], np.random.default_rng(n), circle(0, 10, 90))))
        for n in range(300)
    ]
    assert min(places.count(place) for place in range(3)) > 70
