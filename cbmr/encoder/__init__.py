"""Encoders: log-mel `[batch, mels, frames]` to an embedding `[batch, embedding_size]`.

An `Encoder` is a network behind a door that all of them share (`door`): each mel band is
standardised by the training set's mean and deviation, and padding is replaced by the clip itself,
looped, so that what stands in it can never matter. Networks pool over the positions that real
frames reach, and over those alone. Embeddings come out as the network predicts them; `embed` makes
them unit-norm.
"""

from cbmr.encoder.door import (
    ENCODERS,
    KEYS,
    Encoder,
    begin_from,
    load_encoder,
    mixture,
    save_encoder,
)
from cbmr.encoder.layers import Maxout, StochasticPool, global_pool, last_layer
from cbmr.encoder.nips2013 import Nips2013
from cbmr.encoder.residual import Residual
from cbmr.encoder.spotify2014 import Spotify2014
from cbmr.encoder.vector import Vector

__all__ = [
    "ENCODERS", "KEYS", "Encoder", "Maxout", "Nips2013", "Residual", "Spotify2014",
    "StochasticPool", "Vector", "begin_from", "global_pool", "last_layer", "load_encoder",
    "mixture", "save_encoder",
]  # fmt: skip
