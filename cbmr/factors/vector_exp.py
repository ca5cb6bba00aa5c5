"""Softmax matrix factorisation in the style of vector_exp (Bernhardsson 2013).

What a listener u plays is a draw from a softmax over all tracks,

    P(i | u) = exp(a_u . b_i) / Z_u,    Z_u = sum_j exp(a_u . b_j),

and the factors minimise, with a Gaussian prior,

    sum N_ui (log Z_u - a_u . b_i) + regularization / 2 (|A|^2 + |B|^2).

`N_ui = log(1 + r_ui)`, divided by its mean over all plays: counts are heavy-tailed, and the prior
is to weigh the same whether they were taken over a week or a decade. How vector_exp approximated
Z_u is not public. Here it is exact up to `FULL_SOFTMAX_TRACKS` tracks; above, it is estimated from
tracks drawn in proportion to their plays, each weighted by the inverse of its expected number of
draws (logQ correction, Bengio & Senecal 2008).
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytorch_lightning as pl
import scipy.sparse
import torch
import torch.nn.functional as F

from cbmr.factors.checks import above_zero, at_least_zero, diverged
from cbmr.quiet import quiet_lightning

FULL_SOFTMAX_TRACKS = 20_000
"""Largest catalogue with an exact Z_u: 5 MB of scores for a batch of 64 listeners."""
SAMPLED_TRACKS = 4_096
"""Tracks drawn a batch, for all its listeners, where the catalogue is larger."""
INITIAL_SCALE = 0.1

Batch = dict[str, torch.Tensor]


def vector_exp(
    user_item: scipy.sparse.csr_matrix,
    *,
    size: int,
    rng_seed: int,
    report: Callable[[str], None],
    regularization: float = 10.0,
    learning_rate: float = 0.1,
    epochs: int = 40,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit by Adagrad on batches of listeners, on a GPU where there is one (see `models.MODELS`)."""
    above_zero(learning_rate=learning_rate, epochs=epochs, batch_size=batch_size)
    at_least_zero(regularization=regularization)
    tracks = user_item.shape[1]
    sampled = SAMPLED_TRACKS if tracks > FULL_SOFTMAX_TRACKS else 0
    device = "gpu" if torch.cuda.is_available() else "cpu"
    how = f"softmax sampled by {sampled:,} of" if sampled else "full softmax over"
    report(f"vector_exp: {how} {tracks:,} tracks, {epochs} epochs on the {device}")
    weights = user_item.copy()
    weights.data = np.log1p(user_item.data)
    weights.data /= weights.data.mean()
    module = SoftmaxFactors(
        *user_item.shape,
        size=size,
        regularization=regularization,
        learning_rate=learning_rate,
        sparse=sampled > 0,
        rng_seed=rng_seed,
    )
    # torch warns unless the checks of sparse gradients are declined by name; it left this untyped.
    unchecked = torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]
    with quiet_lightning(), unchecked:
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator=device,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, ListenerBatches(weights, batch_size, sampled, rng_seed))
    users, items = (
        factors.detach().cpu().numpy() for factors in (module.user_factors, module.item_factors)
    )
    if not (np.isfinite(users).all() and np.isfinite(items).all()):
        raise diverged(learning_rate)
    return users, items


def softmax_loss(
    user: torch.Tensor, item: torch.Tensor, play: Batch, played: torch.Tensor
) -> torch.Tensor:
    """`sum N_ui (log Z_u - a_u . b_i)` of the plays of some listeners.

    `user` is `[batch, size]` and `item` `[tracks, size]`, all of them. Of each play, `listener` is
    the row in `user` and `weight` is N, both `[plays]`; `played` `[plays, size]` is its b_i.
    """
    log_z = (user @ item.T).logsumexp(dim=1)
    score = (_rows(user, play["listener"]) * played).sum(dim=1)
    return (play["weight"] * (_rows(log_z[:, None], play["listener"])[:, 0] - score)).sum()


def sampled_softmax_loss(
    user: torch.Tensor, sample: torch.Tensor, play: Batch, played: torch.Tensor
) -> torch.Tensor:
    """An estimate of `softmax_loss` that nears it as the samples become many.

    `sample` `[samples, size]` are the b_j of drawn tracks. `sample_log_expected` `[samples]` and
    `log_expected` `[plays]` are the log of how often a track is expected among the draws. Z_u is
    the sum over the draws of `exp(a_u . b_j) / expected_j`, and the played track itself, without
    which a track that is seldom drawn could be raised without limit.
    """
    log_z = (user @ sample.T - play["sample_log_expected"]).logsumexp(dim=1)
    score = (_rows(user, play["listener"]) * played).sum(dim=1)
    drawn = _rows(log_z[:, None], play["listener"])[:, 0]
    return (play["weight"] * (torch.logaddexp(drawn, score - play["log_expected"]) - score)).sum()


def _rows(table: torch.Tensor, rows: torch.Tensor, sparse: bool = False) -> torch.Tensor:
    """`table[rows]`, whose gradient unlike an index's is summed in the same order every time."""
    return F.embedding(rows, table, sparse=sparse)


class ListenerBatches:
    """Batches of listeners with all their plays, in another order each epoch."""

    def __init__(
        self, weights: scipy.sparse.csr_matrix, batch_size: int, sampled: int, rng_seed: int
    ) -> None:
        self.weights, self.batch_size, self.sampled = weights, batch_size, sampled
        self.rng = np.random.default_rng(rng_seed)
        self.listeners = np.bincount(weights.indices, minlength=weights.shape[1])
        share = np.asarray(weights.sum(axis=0)).ravel() / weights.sum()
        self.reach = np.cumsum(share)
        self.log_expected = np.log(max(sampled, 1) * share)

    def __len__(self) -> int:
        return -(-self.weights.shape[0] // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = self.rng.permutation(self.weights.shape[0])
        for first in range(0, len(order), self.batch_size):
            users = order[first : first + self.batch_size]
            plays = self.weights[users]
            batch = {
                "users": users,
                "listener": np.repeat(np.arange(len(users)), np.diff(plays.indptr)),
                "track": plays.indices.astype(np.int64),
                "weight": plays.data.astype(np.float32),
                # A track's prior is spread over its plays: an epoch adds it up once.
                "prior_share": (1 / self.listeners[plays.indices]).astype(np.float32),
            }
            if self.sampled:
                drawn = np.searchsorted(self.reach, self.rng.random(self.sampled) * self.reach[-1])
                batch["sample"] = drawn
                batch["sample_log_expected"] = self.log_expected[drawn].astype(np.float32)
                batch["log_expected"] = self.log_expected[plays.indices].astype(np.float32)
            yield {name: torch.from_numpy(array) for name, array in batch.items()}


class SoftmaxFactors(pl.LightningModule):
    """Factors as parameters. With `sparse` a step touches only the rows that its batch names."""

    def __init__(
        self,
        listeners: int,
        tracks: int,
        *,
        size: int,
        regularization: float,
        learning_rate: float,
        sparse: bool,
        rng_seed: int,
    ) -> None:
        super().__init__()
        self.regularization, self.learning_rate, self.sparse = regularization, learning_rate, sparse
        rng = torch.Generator().manual_seed(rng_seed)
        self.user_factors, self.item_factors = (
            torch.nn.Parameter(INITIAL_SCALE * torch.randn(rows, size, generator=rng))
            for rows in (listeners, tracks)
        )

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        user = _rows(self.user_factors, batch["users"], self.sparse)
        played = _rows(self.item_factors, batch["track"], self.sparse)
        if self.sparse:
            sample = _rows(self.item_factors, batch["sample"], self.sparse)
            loss = sampled_softmax_loss(user, sample, batch, played)
        else:
            loss = softmax_loss(user, self.item_factors, batch, played)
        track_prior = (batch["prior_share"] * played.square().sum(dim=1)).sum()
        return loss + self.regularization / 2 * (user.square().sum() + track_prior)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adagrad leaves a row alone whose listener is in another batch; momentum would not."""
        return torch.optim.Adagrad(self.parameters(), lr=self.learning_rate)
