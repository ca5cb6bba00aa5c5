"""The model of a vote: how alike a track is to the seed, who votes, and where.

An up has the log-odds

    z = scale * cos(A x_seed, A x_track) + offset + b_listener + b_station,

where x is what is known of a track by its sound and its listeners (`priors.seed_queries`), A says
which of its directions votes are about, some listeners are kind, and some seeds (a station is all
that is played on one) lend themselves to a good station. A vote is recorded the wrong way round at
a rate rho: an up is on record with the probability `(1 - rho) sigmoid(z) + rho sigmoid(-z)` (the
noise of forward correction, Patrini et al. 2017).

What the model thinks likely of each vote corrects it before a loss sees it, whatever the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from cbmr.corpus import Thumbs
from cbmr.errors import InputError
from cbmr.losses import log_kept_or_flipped

SCALE_STD, METRIC_STD, BIAS_STD = 10.0, 0.03, 0.5
"""Normal priors: of the scale, in log-odds; of how far an entry of A is from the identity's, and a
listener or a station from the average, so that who voted twice is hardly kinder than others."""
FLIP_RATES = tuple(rate / 100 for rate in range(0, 46, 5))
"""Nearer to a half nothing can be learned."""
FOLDS = 3
MOST_VOTES = 20_000
"""That the rate is estimated from: a hundredth either way by then."""
FEWEST_VOTES = 200
"""Below these neither a signal can be told from none nor slips from chance."""
LEAST_GAIN = 3.0
"""Standard errors by which likeness has to foretell votes better than chance."""
FIRST_SCALE = 3.0
STEPS = 50
EPS = 1e-12
"""Below any norm but that of a vector of zeros, which is like nothing."""


@dataclass(frozen=True)
class VoteModel:
    """`scale` and `offset` in log-odds, as are the biases `listener` `[listeners]` and `station`
    `[tracks]`, a seed's, which differ by `listener_spread` and `station_spread`, deviations over
    those with votes; `metric` A `[size, size]`; `flip_rate` 0 to .45.

    `gain` is by how much likeness raises the log-likelihood of a vote that was left out of the fit
    over the best that offset, biases and flips do alone, and `gain_error` its standard error;
    `votes` is how many the model was fitted to.
    """

    scale: float
    offset: float
    metric: np.ndarray
    listener: np.ndarray
    station: np.ndarray
    listener_spread: float
    station_spread: float
    flip_rate: float
    gain: float
    gain_error: float
    votes: int

    @property
    def only_chance(self) -> bool:
        """Whether votes, of which there are enough to tell, do not follow likeness."""
        return self.votes >= FEWEST_VOTES and self.gain <= LEAST_GAIN * self.gain_error

    def corrected(self, vectors: np.ndarray, votes: Thumbs) -> tuple[Thumbs, np.ndarray]:
        """The votes as they were most likely meant, and how certain that is, 0 to 1, `[votes]`.

        By Bayes' rule an up on record was meant with the probability
        `m = (1 - rho) p / ((1 - rho) p + rho (1 - p))`, p being `sigmoid(z)`; it is turned round
        where m is below a half, and its certainty is `|2 m - 1|`. By hand, rho .1: m is .9 where p
        is a half, so the certainty .8; where p is .05, m is .32: a down, of certainty .36. Without
        flips votes stay as they are, all certain.
        """
        heard = vectors @ self.metric.T
        heard = heard / np.linalg.norm(heard, axis=1, keepdims=True).clip(EPS)
        likeness = np.einsum("vf,vf->v", heard[votes.seed], heard[votes.track])
        bias = self.offset + self.listener[votes.user] + self.station[votes.seed]
        z = self.scale * likeness + bias
        with np.errstate(divide="ignore"):
            kept = np.log1p(-self.flip_rate) - np.log(self.flip_rate)  # infinite without flips
        log_odds = np.where(votes.up, z, -z) + kept  # of m, and 2 m - 1 is tanh of their half
        return replace(votes, up=votes.up == (log_odds > 0)), np.abs(np.tanh(log_odds / 2))

    def __str__(self) -> str:
        return (
            f"log-odds of an up {self.scale:.1f} x likeness {self.offset:+.1f}, listeners differ "
            f"by {self.listener_spread:.2f} and stations by {self.station_spread:.2f}; flip rate "
            f"{self.flip_rate:.2f}; of votes left out, likeness raises the log-likelihood by "
            f"{self.gain:.3f}, standard error {self.gain_error:.3f}"
        )


def fit_votes(
    vectors: np.ndarray, votes: Thumbs, *, flip_rate: float | None, rng_seed: int
) -> VoteModel:
    """The most likely model of votes on tracks with unit-norm `vectors` `[tracks, size]`.

    Without a `flip_rate` it is the one under which votes left out of the fit are the most likely,
    of `FLIP_RATES` by `FOLDS` folds, and 0 below `FEWEST_VOTES`. Fitted with all else it would come
    out near 0, as the biases soak up what slips add. InputError for a rate outside 0 to .45.
    """
    if flip_rate is not None and not 0 <= flip_rate <= FLIP_RATES[-1]:
        raise InputError(f"flip_rate={flip_rate}: expected 0 to {FLIP_RATES[-1]}")
    x = torch.from_numpy(vectors.astype(np.float32))
    listeners = int(votes.user.max(initial=-1)) + 1
    if flip_rate is None:
        rates = FLIP_RATES if len(votes) >= FEWEST_VOTES else FLIP_RATES[:1]
    else:
        rates = (flip_rate,)
    rng = np.random.default_rng(rng_seed)
    some = votes[rng.permutation(len(votes))[:MOST_VOTES]]
    flip_rate, foretold = _best_rate(x, some, listeners, rates)
    _, alone = _best_rate(torch.zeros_like(x), some, listeners, rates)
    gained = foretold - alone
    gain = float(gained.sum()) / max(1, len(gained))
    fitted = _fit(_start(x, listeners), x, votes, flip_rate)
    scale, offset, metric, listener, station = (part.numpy() for part in fitted)
    return VoteModel(
        scale=float(scale),
        offset=float(offset),
        metric=metric,
        listener=listener,
        station=station,
        listener_spread=_spread(listener, votes.user),
        station_spread=_spread(station, votes.seed),
        flip_rate=flip_rate,
        gain=gain,
        gain_error=float(np.linalg.norm(gained - gain)) / max(1, len(gained)),
        votes=len(votes),
    )


Parts = Sequence[torch.Tensor]
"""Scale, offset, metric, listeners' and stations' biases."""


def _spread(bias: np.ndarray, voted: np.ndarray) -> float:
    """The deviation of `bias` among those that `voted`; it is 0 of all others."""
    return float(bias[np.unique(voted)].std()) if len(voted) else 0.0


def _best_rate(
    x: torch.Tensor, votes: Thumbs, listeners: int, rates: Sequence[float]
) -> tuple[float, np.ndarray]:
    """The rate under which votes are the most likely by fits on the other folds, and their
    log-likelihood under it `[votes]`."""
    fold = np.arange(len(votes)) % FOLDS
    foretold = np.zeros((len(rates), len(votes)))
    for left_out in range(FOLDS):
        seen, unseen = votes[fold != left_out], votes[fold == left_out]
        parts = _start(x, listeners)
        for place, rate in enumerate(rates):
            parts = _fit(parts, x, seen, rate)  # from where the last rate ended
            foretold[place, fold == left_out] = _log_likelihood(parts, x, unseen, rate).numpy()
    best = int(np.argmax(foretold.sum(axis=1)))
    return rates[best], foretold[best]


def _start(x: torch.Tensor, listeners: int) -> Parts:
    size = x.shape[1]
    biases = torch.zeros(listeners), torch.zeros(len(x))
    return torch.tensor(FIRST_SCALE), torch.tensor(0.0), torch.eye(size), *biases


def _fit(parts: Parts, x: torch.Tensor, votes: Thumbs, flip_rate: float) -> Parts:
    """The most likely parts under their priors, from `parts` on."""
    if not len(votes):
        return parts
    free = [part.clone().requires_grad_() for part in parts]
    scale, _, metric, listener, station = free
    optimiser = torch.optim.LBFGS(
        free, max_iter=STEPS, tolerance_change=1e-7, line_search_fn="strong_wolfe"
    )
    identity = torch.eye(x.shape[1])

    def cost() -> torch.Tensor:
        optimiser.zero_grad()
        priors = (
            (scale / SCALE_STD).square()
            + ((metric - identity) / METRIC_STD).square().sum()
            + (listener / BIAS_STD).square().sum()
            + (station / BIAS_STD).square().sum()
        )
        total = priors / (2 * len(votes)) - _log_likelihood(free, x, votes, flip_rate).mean()
        total.backward()  # type: ignore[no-untyped-call]  # torch left it untyped
        return total

    optimiser.step(cost)  # type: ignore[no-untyped-call]  # as it left this
    return [part.detach() for part in free]


def _log_likelihood(parts: Parts, x: torch.Tensor, votes: Thumbs, flip_rate: float) -> torch.Tensor:
    scale, offset, metric, listener, station = parts
    heard = F.normalize(x @ metric.T, dim=1)
    seed, track, user = (torch.from_numpy(rows) for rows in (votes.seed, votes.track, votes.user))
    # `x[rows]` adds up its gradients in whichever order threads come; this in one.
    likeness = (heard.index_select(0, seed) * heard.index_select(0, track)).sum(dim=1)
    z = scale * likeness + offset + listener.index_select(0, user) + station.index_select(0, seed)
    return log_kept_or_flipped(torch.where(torch.from_numpy(votes.up), z, -z), flip_rate)
