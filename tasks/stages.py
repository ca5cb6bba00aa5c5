"""What the two training stages share: the store they read, and the artefacts they leave."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cbmr.corpus import Corpus, rows_of
from cbmr.encoder import Encoder, save_encoder
from cbmr.evaluation import relevance
from cbmr.factors import Factors, unit_rows
from cbmr.files import file_hash, write_json
from cbmr.logmel import MelSpec
from cbmr.metrics import auc, rank
from cbmr.spectrograms import SpectrogramStore, store_folder
from cbmr.vectors import Vectors, save_vectors
from tasks.command import defaults_of
from tasks.runs import MANIFESTS, say, write_manifest


def open_store(cfg: DictConfig, spec: MelSpec) -> SpectrogramStore:
    """The run's store of this spectrogram, scanned now if it is not there."""
    import tasks.scan

    scan = defaults_of("scan", cfg)
    scan.encoder.mel = vars(spec)
    folder = store_folder(Path(cfg.run) / "spectrograms", spec, scan.excerpt_s)
    if (folder / "catalogue.json").exists():
        say(f"using {folder}")
    else:
        say(f"scan: missing in {cfg.run}, made now by its defaults")
        tasks.scan.run(scan)
    return SpectrogramStore(folder)


def split_rows(store: SpectrogramStore, corpus: Corpus, split: str) -> np.ndarray:
    """Rows of the store whose tracks are in a split of the corpus."""
    at = corpus.track_rows(store.track_ids)
    assert corpus.split is not None
    return np.flatnonzero((at >= 0) & (corpus.split[at] == split))


def unit_targets(store: SpectrogramStore, factors: Factors) -> np.ndarray:
    """Unit-norm CF factors float32 `[store, factors]`; NaN where a track has none."""
    at = rows_of(factors.track_ids, store.track_ids)
    targets = np.full((len(store), factors.item_factors.shape[1]), np.nan, dtype=np.float32)
    targets[at >= 0] = unit_rows(factors.item_factors[at[at >= 0]])
    return targets


class HeldOutListening:
    """Listening AUC on validation tracks: every listener ranks them by `users @ vectors`."""

    def __init__(
        self, corpus: Corpus, factors: Factors, store: SpectrogramStore, rows: np.ndarray
    ) -> None:
        assert corpus.plays is not None
        tracks = corpus.track_rows(store.track_ids[rows])
        users = rows_of(corpus.user_ids, factors.user_ids)
        order, user_order = np.argsort(tracks), np.flatnonzero(users >= 0)
        user_order = user_order[np.argsort(users[user_order])]
        self.order, self.users = order, factors.user_factors[user_order]
        self.relevant = relevance(corpus.plays, users[user_order], tracks[order])

    def __bool__(self) -> bool:
        return bool(self.relevant.any())

    def auc(self, vectors: np.ndarray) -> float:
        """Mean over listeners, of vectors `[rows, factors]` scaled to unit norm here."""
        scores = self.users @ unit_rows(vectors[self.order]).T
        return float(np.nanmean(auc(rank(scores, self.relevant))))


def save_stage(
    run: Path,
    stage: str,
    encoder: Encoder,
    vectors: Vectors,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Leave a stage's artefacts. Its manifest goes first and comes back last, so that a stage
    interrupted here is seen as missing, never as whole."""
    folder = run / stage
    (run / MANIFESTS[stage]).unlink(missing_ok=True)
    save_encoder(folder / "encoder.pt", encoder)
    save_vectors(folder / "embeddings.npz", vectors)
    write_json(folder / "metrics.json", metrics)
    names = ("encoder.pt", "embeddings.npz")
    outputs = {name: file_hash(folder / name) for name in names}
    write_manifest(run, stage, settings, inputs, outputs=outputs)
    say(f"{stage}: {len(vectors.track_ids)} vectors -> {folder}")
