"""A warm start without labels: an encoder that tells excerpts of one track from those of others."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cbmr.encoder import Encoder, last_layer
from cbmr.learners.learner import Batch, Learner, Validate
from cbmr.losses import contrastive
from cbmr.metrics import average_precision, rank, recall


class ExcerptContrast(Learner):
    """Contrastive learning between two random excerpts of each track, or of two tracks of an album
    where the batch brings a second one, cropped and augmented apart: what a track is not, in place
    of labels, is all others of the batch but its album's (`losses.contrastive`)."""

    def __init__(
        self, encoder: Encoder, validate: Validate | None, *, temperature: float, **shared: Any
    ) -> None:
        super().__init__(encoder, validate, **shared)
        self.temperature = temperature
        # From zero, where the last layer starts elsewhere, no direction is better than another.
        last = encoder.network.get_submodule(last_layer(encoder.network))
        nn.init.xavier_uniform_(last.get_parameter("weight"))

    def excerpt(self, batch: Batch) -> torch.Tensor:
        """Unit vectors `[batch, embedding_size]` of a random excerpt of each track."""
        return F.normalize(self.predict(batch), dim=1)

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        other = batch
        if "album" in batch:
            other = {"logmel": batch["other_logmel"], "frames": batch["other_frames"]}
        first, second = self.excerpt(batch), self.excerpt(other)
        with self.float32():
            loss = contrastive(
                first, second, temperature=self.temperature, group=batch.get("album")
            )
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(first))
        return loss


def retrieval_score(embeddings: np.ndarray) -> dict[str, float]:
    """How well either half of a track finds the other by cosine among all tracks: `recall_at_1`
    and the mean `reciprocal_rank`. `embeddings` `[2 tracks, size]` hold a track's halves one after
    the other."""
    unit = F.normalize(torch.from_numpy(embeddings), dim=1).numpy()
    cosine = unit[0::2] @ unit[1::2].T
    own = np.eye(len(cosine), dtype=bool)
    rankings = [rank(cosine, own), rank(cosine.T, own)]
    # Of one relevant track, average precision is the reciprocal of its rank.
    reciprocal = [average_precision(ranking, depth=len(own)) for ranking in rankings]
    found = [recall(ranking, depth=1) for ranking in rankings]
    return {"recall_at_1": float(np.mean(found)), "reciprocal_rank": float(np.mean(reciprocal))}
