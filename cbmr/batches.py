"""Batches for pretraining and the two stages, read from the store by worker processes.

A batch holds the log-mels of its tracks as stored, `logmel` float16 `[batch, mels, frames]` and
`frames` `[batch]`; scaling and cropping happen later, on the training device. What is in an epoch
and in which order follows from the seed and the epoch's number alone, so that an interrupted
training goes on exactly where it was.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from cbmr.corpus import Plays
from cbmr.preferences import Preferences, pairs_among
from cbmr.quiet import quiet_loader
from cbmr.spectrograms import Store

EVALUATION_BATCH = 64
MOST_LOADERS = 4
"""Enough to keep a training fed, however many cores there are."""
REHEARSED = 0.5
"""Tracks drawn beside each that a station of the batch plays."""


class EpochSampler(Sampler[np.ndarray]):
    """Batches of items, shuffled anew each epoch, whose number the learner writes into `epoch`.

    Items of `sizes` `[items]` join a batch until they add up to about `batch_size`, for which one
    that is larger counts as one of that size. An epoch ends after `epoch_size`, however many
    items are left: the next one draws from all of them again. Every epoch has as many batches as
    `len` says, which is what Lightning goes by.
    """

    def __init__(self, sizes: np.ndarray, batch_size: int, epoch_size: int, rng_seed: int) -> None:
        self.sizes, self.rng_seed, self.epoch = np.minimum(sizes, batch_size), rng_seed, 0
        self.epoch_size = min(epoch_size, int(self.sizes.sum()))
        self.batches = max(1, round(self.epoch_size / batch_size))

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng((self.rng_seed, self.epoch)).permutation(len(self.sizes))
        # Evenly filled, so that no epoch ends on a batch of one item.
        ends = np.linspace(0, self.epoch_size, self.batches + 1)[1:]
        last = np.searchsorted(np.cumsum(self.sizes[order]), ends)
        # A batch has an item at least, and leaves one to each that follows.
        least, most = np.arange(self.batches), len(order) - np.arange(self.batches, 0, -1)
        last = np.minimum(np.maximum.accumulate(last - least) + least, most)
        yield from np.split(order, last + 1)[: self.batches]

    def __len__(self) -> int:
        return self.batches


class TrackBatches(Dataset[dict[str, Any]]):
    """Tracks of the store (`rows`, into it), with the `targets` `[rows, factors]` to predict and
    the `plays` of them, where given: listeners as rows of the factors, tracks as rows of the store.

    A batch holds its plays as `listener`, `count` and `played`, the track's place, each `[plays]`.
    """

    def __init__(
        self,
        store: Store,
        rows: np.ndarray,
        targets: np.ndarray | None = None,
        plays: Plays | None = None,
    ) -> None:
        self.store, self.rows, self.targets = store, rows, targets
        self.plays = plays
        if plays is not None:
            order = np.argsort(plays.track, kind="stable")
            self.plays = Plays(plays.user[order], plays.track[order], plays.count[order])
            self.begin = np.searchsorted(self.plays.track, np.arange(len(store) + 1))

    def __getitem__(self, items: np.ndarray) -> dict[str, Any]:
        rows = self.rows[items]
        batch = {
            "logmel": torch.from_numpy(self.store[rows]),
            "frames": torch.from_numpy(self.store.frames[rows]),
        }
        if self.targets is not None:
            batch["target"] = torch.from_numpy(self.targets[items])
        if self.plays is not None:
            spans = [np.arange(self.begin[row], self.begin[row + 1]) for row in rows]
            places = np.concatenate(spans)
            played = np.repeat(np.arange(len(rows)), [len(span) for span in spans])
            batch["played"] = torch.from_numpy(played)
            batch["listener"] = torch.from_numpy(self.plays.user[places])
            batch["count"] = torch.from_numpy(self.plays.count[places])
        return batch


class AlbumBatches(Dataset[dict[str, Any]]):
    """Tracks of the store (`rows`, into it), each with what its second excerpt is taken from: with
    probability `share` another track of its album, else itself.

    `album` `[rows]` numbers the albums; a track without one is alone in its own. A batch holds
    `other_logmel` and `other_frames` beside `logmel` and `frames`, and `album`, all `[batch]`.
    """

    def __init__(
        self, store: Store, rows: np.ndarray, album: np.ndarray, share: float, rng_seed: int
    ) -> None:
        self.store, self.rows, self.share, self.rng_seed = store, rows, share, rng_seed
        self.album = np.unique(album, return_inverse=True)[1]
        self.order = np.argsort(self.album, kind="stable")
        self.size = np.bincount(self.album)
        self.begin = np.cumsum(self.size) - self.size
        self.place = np.argsort(self.order)

    def others(self, items: np.ndarray) -> np.ndarray:
        """The items of the second excerpts, drawn by which items come together: no two epochs have
        the same batches."""
        rng = np.random.default_rng((self.rng_seed, *items.tolist()))
        begin, size = self.begin[self.album[items]], self.size[self.album[items]]
        further = rng.integers(
            1, np.maximum(size, 2)
        )  # never all the way round to the track itself
        mate = self.order[begin + (self.place[items] - begin + further) % size]
        return np.where(rng.random(len(items)) < self.share, mate, items)

    def __getitem__(self, items: np.ndarray) -> dict[str, Any]:
        rows, others = self.rows[items], self.rows[self.others(items)]
        return {
            "logmel": torch.from_numpy(self.store[rows]),
            "frames": torch.from_numpy(self.store.frames[rows]),
            "other_logmel": torch.from_numpy(self.store[others]),
            "other_frames": torch.from_numpy(self.store.frames[others]),
            "album": torch.from_numpy(self.album[items]),
        }


class HalfBatches(Dataset[dict[str, Any]]):
    """Tracks of the store (`rows`, into it), cut in two: a batch holds each one's first half and,
    right after it, its second."""

    def __init__(self, store: Store, rows: np.ndarray) -> None:
        self.store, self.rows = store, rows

    def __getitem__(self, items: np.ndarray) -> dict[str, Any]:
        rows = self.rows[items]
        half = self.store.frames[rows] // 2
        whole = torch.from_numpy(self.store[rows])
        width = whole.shape[2] // 2
        cut = [
            (one[:, :width], one[:, at : at + width]) for one, at in zip(whole, half, strict=True)
        ]
        return {
            "logmel": torch.stack([part for halves in cut for part in halves]),
            "frames": torch.from_numpy(half.repeat(2)),
        }


class StationBatches(Dataset[dict[str, Any]]):
    """Stations and up to half as many other tracks, with every training vote among them and every
    pair of an up and a down among those votes.

    The other tracks are drawn evenly of all with an anchor, so a few are the stations' own:
    stations play the popular ones again and again, and an encoder that hears little else forgets
    the rest (rehearsal, Robins 1995).
    Each track is in a batch once, however many votes touch it. `preferences` are rows of the store,
    `anchors` `[store, factors]` what embeddings are kept near, by their `anchor_weight` `[store]`,
    0 where there is none, and `queries` `[store, factors]` what tracks ask for as seeds. In a batch
    `seed` and `track` are places among its tracks, and `pairs` `[pairs, 2]` among its votes.
    """

    def __init__(
        self,
        store: Store,
        preferences: Preferences,
        anchors: np.ndarray,
        anchor_weight: np.ndarray,
        queries: np.ndarray,
        rng_seed: int,
    ) -> None:
        self.store, self.preferences = store, preferences
        self.anchors, self.anchor_weight, self.queries = anchors, anchor_weight, queries
        self.rng_seed = rng_seed
        self.anchored = np.flatnonzero(anchor_weight)

    def tracks(self, items: np.ndarray) -> np.ndarray:
        """The rows of a batch, the others drawn by which stations come together: no two epochs have
        the same batches."""
        played = np.unique(np.concatenate([self.preferences.stations[item] for item in items]))
        rng = np.random.default_rng((self.rng_seed, *items.tolist()))
        number = min(round(REHEARSED * len(played)), len(self.anchored))
        return np.union1d(played, rng.choice(self.anchored, number, replace=False))

    def __getitem__(self, items: np.ndarray) -> dict[str, Any]:
        votes, rows = self.preferences, self.tracks(items)
        place = np.full(len(self.store), -1)
        place[rows] = np.arange(len(rows))
        here = np.flatnonzero((place[votes.seed] >= 0) & (place[votes.track] >= 0))
        pairs = pairs_among(votes.group[here], votes.up[here])
        strength = votes.strength[here[pairs]].prod(axis=1)
        batch = {
            "logmel": self.store[rows],
            "frames": self.store.frames[rows],
            "anchor": self.anchors[rows],
            "anchor_weight": self.anchor_weight[rows],
            "query": self.queries[rows],
            "seed": place[votes.seed[here]],
            "track": place[votes.track[here]],
            "up": votes.up[here],
            "group": votes.group[here],
            "weight": votes.weight[here],
            "pairs": pairs,
            "pair_weight": votes.pair_weight[here[pairs[:, 0]]] * strength,
        }
        return {name: torch.from_numpy(array) for name, array in batch.items()}


class Batches(pl.LightningDataModule):
    """Training batches by a seeded sampler, and the tracks to embed for validation in order."""

    def __init__(
        self,
        train: TrackBatches | AlbumBatches | StationBatches,
        sampler: EpochSampler,
        valid: TrackBatches | HalfBatches | None,
        *,
        workers: int,
    ) -> None:
        super().__init__()
        self.train, self.sampler, self.valid, self.workers = train, sampler, valid, workers

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Each batch is read whole by one of half of the `workers`, `MOST_LOADERS` at most, since
        training takes cores too: the sampler yields all its items at once."""
        return DataLoader(
            self.train,
            sampler=self.sampler,
            batch_size=None,
            num_workers=min(max(1, self.workers // 2), MOST_LOADERS),
            persistent_workers=True,
            worker_init_fn=quiet_loader,
        )

    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[Any]:
        """The validation tracks in their order, read in this process: there are few."""
        if self.valid is None:
            return []
        items = np.arange(len(self.valid.rows))
        chunks = [
            items[start : start + EVALUATION_BATCH]
            for start in range(0, len(items), EVALUATION_BATCH)
        ]
        return DataLoader(self.valid, sampler=chunks, batch_size=None)


def excerpt_batches(
    store: Store,
    train_rows: np.ndarray,
    valid_rows: np.ndarray | None,
    *,
    batch_size: int,
    rng_seed: int,
    workers: int,
    album: np.ndarray | None = None,
    album_share: float = 0.0,
) -> Batches:
    """Pretraining: tracks `train_rows`, others of their `album` `[train_rows]` in `album_share`
    of the cases, and the halves of `valid_rows`."""
    tracks: TrackBatches | AlbumBatches = TrackBatches(store, train_rows)
    if album is not None:
        tracks = AlbumBatches(store, train_rows, album, album_share, rng_seed)
    return Batches(
        tracks,
        EpochSampler(np.ones(len(train_rows)), batch_size, len(train_rows), rng_seed),
        None if valid_rows is None else HalfBatches(store, valid_rows),
        workers=workers,
    )


def factor_batches(
    store: Store,
    train_rows: np.ndarray,
    targets: np.ndarray,
    plays: Plays | None,
    valid_rows: np.ndarray | None,
    *,
    batch_size: int,
    rng_seed: int,
    workers: int,
) -> Batches:
    """Stage 1: tracks `train_rows` with unit-norm `targets` `[train_rows, factors]`, and the plays
    of them for an objective that reads them."""
    return Batches(
        TrackBatches(store, train_rows, targets, plays),
        EpochSampler(np.ones(len(train_rows)), batch_size, len(train_rows), rng_seed),
        None if valid_rows is None else TrackBatches(store, valid_rows),
        workers=workers,
    )


def station_batches(
    store: Store,
    preferences: Preferences,
    anchors: np.ndarray,
    anchor_weight: np.ndarray,
    queries: np.ndarray,
    valid_rows: np.ndarray | None,
    *,
    batch_size: int,
    rng_seed: int,
    workers: int,
) -> Batches:
    """Stage 2: stations until about `batch_size` tracks are together, and up to half as many more.

    An epoch's stations bring about as many tracks as have votes.
    """
    sizes = np.array([len(station) for station in preferences.stations])
    tracks = len(np.unique(np.concatenate(preferences.stations)))
    return Batches(
        StationBatches(store, preferences, anchors, anchor_weight, queries, rng_seed),
        EpochSampler(sizes, batch_size, tracks, rng_seed),
        None if valid_rows is None else TrackBatches(store, valid_rows),
        workers=workers,
    )
