"""What a step of stage 2 makes of its votes: `python -m benchmarks.votes [CORPUS RUN]` (default:
the demo's).

Two bare PyTorch loops of the run's encoder with the triplet loss, in turn for five rounds after one
to warm up, medians printed: stage 2's batches, which embed each track once however many votes touch
it and use every pair among them, and a plain loop that embeds anchor, positive and negative of as
many random triplets apart. Both embed about as many clips a step. A vote counts once in a step.
Then what a million votes cost before the first step.
"""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
import numpy as np
import torch
import torch.nn.functional as F

from cbmr.batches import REHEARSED, StationBatches, station_batches
from cbmr.corpus import Thumbs
from cbmr.encoder import Encoder, load_encoder
from cbmr.evaluation.held_out import votes_in_store
from cbmr.factors import load_factors
from cbmr.learners import THUMB_LOSSES
from cbmr.preferences import make_preferences, pairs_among
from cbmr.priors import seed_queries
from cbmr.sources.tables import read_corpus
from cbmr.spectrograms import SpectrogramStore
from cbmr.votes import fit_votes
from tasks.command import CONF
from tasks.stages import predicted_vectors

STEPS, ROUNDS, BATCH = 8, 5, 64
MILLION = 1_000_000

Step = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], int]
"""Log-mels, frames, a batch of votes among them, and how many votes it uses."""
Loss = Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]


def main() -> None:
    """Print both speeds and their ratio, then the cost of a million votes."""
    corpus_folder, run = map(Path, sys.argv[1:3] or ("corpora/demo", "runs/demo"))
    corpus = read_corpus(corpus_folder, needs=["plays", "thumbs"])
    encoder = load_encoder(run / "regress" / "encoder.pt")
    store = SpectrogramStore(next(run.glob("spectrograms/*2048*")))
    votes = votes_in_store(corpus, store, "train")
    heard = predicted_vectors(run / "regress").of(store.track_ids)
    known = seed_queries(heard, store.track_ids, load_factors(run / "factors.npz"))
    with hydra.initialize_config_dir(CONF, version_base=None):
        options = dict(hydra.compose("rank", ["loss=triplet"]).loss.options)

    def loss(unit: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return THUMB_LOSSES["triplet"](unit, {"query": unit, **batch}, **options)

    loops = {"stations": _stations(store, votes, known), "plain triplets": _plain(store, votes)}
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(ROUNDS + 1):
        for name, steps in loops.items():
            used, clips, seconds = _train(encoder, steps, loss)
            if round_:
                speeds[name].append(used / seconds)
            if round_ == ROUNDS:
                print(
                    f"{name}: {statistics.median(speeds[name]):.0f} votes/s, "
                    f"{used / clips:.2f} votes a clip that is embedded"
                )
    medians = [statistics.median(of) for of in speeds.values()]
    print(f"stations / plain triplets: {medians[0] / medians[1]:.1f}")
    _million(votes, known)


def _stations(store: SpectrogramStore, votes: Thumbs, known: np.ndarray) -> list[Step]:
    batches = station_batches(
        store,
        make_preferences(votes),
        known,
        np.ones(len(store), dtype=np.float32),
        known,
        None,
        batch_size=BATCH,
        rng_seed=0,
        workers=1,
    )
    assert isinstance(batches.train, StationBatches)
    items = [items for items, _ in zip(batches.sampler, range(STEPS), strict=False)]
    read = [batches.train[item] for item in items]
    return [(b["logmel"], b["frames"], b, len(b["pairs"].unique())) for b in read]


def _plain(store: SpectrogramStore, votes: Thumbs) -> list[Step]:
    preferences = make_preferences(votes)
    pairs = pairs_among(preferences.group, preferences.up)
    rng, steps, size = np.random.default_rng(0), [], round((1 + REHEARSED) * BATCH) // 3
    for _ in range(STEPS):
        up, down = pairs[rng.choice(len(pairs), size, replace=False)].T
        rows = np.concatenate([votes.seed[up], votes.track[up], votes.track[down]])
        each = torch.arange(size)
        batch = {
            "seed": torch.cat([each, each]),
            "track": torch.cat([each + size, each + 2 * size]),
            "pairs": torch.stack([each, each + size], dim=1),
            "pair_weight": torch.ones(size),
        }
        used = len(np.unique([up, down]))
        steps.append(
            (torch.from_numpy(store[rows]), torch.from_numpy(store.frames[rows]), batch, used)
        )
    return steps


def _train(encoder: Encoder, steps: list[Step], loss: Loss) -> tuple[int, int, float]:
    """Votes used, clips embedded and seconds of all steps, what is read from disk aside."""
    encoder.train()
    optimiser = torch.optim.SGD(encoder.parameters(), lr=1e-6)
    used = clips = 0
    began = time.perf_counter()
    for logmel, frames, batch, votes in steps:
        optimiser.zero_grad()
        unit = F.normalize(encoder(logmel, frames).float(), dim=1)
        loss(unit, batch).backward()  # type: ignore[no-untyped-call]  # torch left it untyped
        optimiser.step()
        used, clips = used + votes, clips + len(logmel)
    return used, clips, time.perf_counter() - began


def _million(votes: Thumbs, known: np.ndarray) -> None:
    """A million votes of many more listeners on the same tracks: their model, and their pairs."""
    rng = np.random.default_rng(0)
    copies = -(-MILLION // len(votes))
    users = int(votes.user.max()) + 1
    user = np.concatenate([votes.user + users * copy for copy in range(copies)])[:MILLION]
    seed, track, up = (np.tile(of, copies)[:MILLION] for of in (votes.seed, votes.track, votes.up))
    order = rng.permutation(MILLION)
    many = Thumbs(user[order], seed[order], track[order], up[order])
    for name, make in _timed(many, known):
        began = time.perf_counter()
        make()
        print(f"{MILLION:,} votes, {name}: {time.perf_counter() - began:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of all of this: {peak:.0f} MiB")


def _timed(many: Thumbs, known: np.ndarray) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "model of a vote", lambda: fit_votes(known, many, flip_rate=None, rng_seed=0)
    yield "preferences", lambda: make_preferences(many)


if __name__ == "__main__":
    main()
