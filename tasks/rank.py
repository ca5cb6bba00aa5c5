"""`python -m tasks.rank`: stage 2, the encoder fine-tuned on radio thumbs."""

import json
from pathlib import Path

from omegaconf import DictConfig

from cbmr.corpus import votes_of
from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash
from tasks.command import command
from tasks.runs import is_fresh, progress, read_corpus, require, say, settings_of

LOSSES = ("drlim", "triplet", "ranknet")
LISTENING_LOSS = 0.01
"""An epoch that loses more listening AUC than this on validation is not kept."""


def run(cfg: DictConfig) -> None:
    """Fine-tune stage 1's encoder and leave `rank/`; stage 1's own where that is no better."""
    if cfg.loss not in LOSSES:
        raise InputError(f"loss={cfg.loss}: expected {', '.join(LOSSES)}; regress has others")
    if not 0 <= cfg.flip_rate < 0.5:
        raise InputError(f"flip_rate={cfg.flip_rate}: expected at least 0 and below 0.5")
    corpus = read_corpus(cfg, needs=["plays", "thumbs"])
    require("regress", cfg)

    import numpy as np
    import torch

    from cbmr.batches import station_batches
    from cbmr.corpus import Thumbs
    from cbmr.embed import embed_store
    from cbmr.encoder import load_encoder
    from cbmr.factors import load_factors, unit_rows
    from cbmr.learners import ThumbRanking, train
    from cbmr.metrics import pooled_auc
    from cbmr.preferences import make_preferences
    from cbmr.vectors import load_vectors
    from tasks.stages import HeldOutListening, open_store, save_stage, split_rows, unit_targets

    folder, settings = Path(cfg.run), settings_of(cfg)
    encoder_file = folder / "regress" / "encoder.pt"
    encoder = load_encoder(encoder_file)
    store = open_store(cfg, encoder.mel_spec)
    factors = load_factors(folder / "factors.npz")
    to_store = np.full(len(corpus.track_ids), -1)
    at = corpus.track_rows(store.track_ids)
    to_store[at[at >= 0]] = np.flatnonzero(at >= 0)

    def votes_in_store(split: str) -> Thumbs:
        votes = votes_of(corpus, split)
        moved = Thumbs(votes.user, to_store[votes.seed], to_store[votes.track], votes.up)
        return moved[(moved.seed >= 0) & (moved.track >= 0)]

    votes, valid_votes = votes_in_store("train"), votes_in_store("valid")
    if not len(votes):
        raise InputError(
            f"{cfg.corpus}: none of the thumbs has a training track on a training seed, with "
            "audio: stage 2 has nothing to learn from"
        )
    targets = unit_targets(store, factors)
    targets[split_rows(store, corpus, "valid")] = np.nan
    targets[split_rows(store, corpus, "test")] = np.nan
    inputs = {
        "spectrograms": store.fingerprint,
        "factors.npz": file_hash(folder / "factors.npz"),
        "regress/encoder.pt": file_hash(encoder_file),
        "training votes": content_hash(votes.user, votes.seed, votes.track, votes.up),
    }
    if is_fresh(folder, "rank", settings, inputs):
        return

    preferences = make_preferences(votes)
    if cfg.loss != "drlim" and not len(preferences.pairs):
        raise InputError(
            f"loss={cfg.loss} learns from an up and a down on one listener's station, and no "
            "station has both: use loss=drlim"
        )
    valid_rows = np.unique(np.concatenate([valid_votes.seed, valid_votes.track]))
    valid_tracks = split_rows(store, corpus, "valid")
    rows = np.unique(np.concatenate([valid_rows, valid_tracks]))
    listening = HeldOutListening(corpus, factors, store, valid_tracks)
    place = np.searchsorted(rows, valid_tracks)
    seeds, tracks = (np.searchsorted(rows, x) for x in (valid_votes.seed, valid_votes.track))
    has_validation = 0 < valid_votes.up.sum() < len(valid_votes) and bool(listening)

    def measure(embeddings: np.ndarray) -> dict[str, float]:
        unit = unit_rows(embeddings)
        similarity = (unit[seeds] * unit[tracks]).sum(axis=1)
        return {
            "thumbs_auc": pooled_auc(similarity, valid_votes.up),
            "listening_auc": listening.auc(unit[place]),
        }

    before = load_vectors(folder / "regress" / "embeddings.npz")
    stage1 = measure(before.vectors[rows]) if has_validation else None

    def validate(embeddings: np.ndarray) -> dict[str, float]:
        now = measure(embeddings)
        forgot = now["listening_auc"] < stage1["listening_auc"] - LISTENING_LOSS
        return {**now, "score": 0.0 if forgot else now["thumbs_auc"]}

    torch.manual_seed(cfg.rng_seed)
    spec = encoder.mel_spec
    learner = ThumbRanking(
        encoder,
        validate if has_validation else None,
        loss=cfg.loss,
        margin=cfg.margin,
        scale=cfg.scale,
        flip_rate=cfg.flip_rate,
        anchor=cfg.anchor,
        learning_rate=cfg.learning_rate,
        weight_decay=cfg.weight_decay,
        crop_frames=spec.frames(spec.samples(cfg.crop_s)),
        rng_seed=cfg.rng_seed,
    )
    batches = station_batches(
        store,
        preferences,
        targets,
        rows if has_validation else None,
        batch_size=cfg.batch_size,
        rng_seed=cfg.rng_seed,
        workers=cfg.workers,
    )
    say(
        f"rank: {cfg.loss} on {len(votes)} votes of {len(preferences.stations)} stations, "
        f"{len(preferences.pairs)} pairs of an up and a down"
    )
    with progress("rank") as report:
        epoch = train(
            learner,
            batches,
            folder / "rank",
            epochs=cfg.epochs,
            fingerprint=content_hash(json.dumps([settings, inputs])),
            progress=report,
        )
    vectors = embed_store(encoder, store)
    metrics = {"train_votes": len(votes), "epoch": epoch}
    if has_validation:
        stage2 = validate(vectors.vectors[rows])
        kept = stage2["score"] > stage1["thumbs_auc"]
        if not kept:
            say("rank: no epoch beats stage 1 on validation, so stage 1's encoder is exported")
            encoder, vectors, metrics["epoch"] = load_encoder(encoder_file), before, 0
            stage2 = {**stage1}
        for name in ("thumbs_auc", "listening_auc"):
            metrics[f"valid_{name}"] = stage2[name]
            metrics[f"valid_{name}_stage_1"] = stage1[name]
    else:
        say("rank: no validation votes of both kinds, so the last epoch is kept")
    save_stage(folder, "rank", encoder, vectors, metrics, settings, inputs)
    say(f"rank: {', '.join(f'{name} {value:.4g}' for name, value in metrics.items())}")
    if not cfg.holdout:
        say("rank: trained on every track (holdout=false), so no evaluation of it holds")


if __name__ == "__main__":
    command("rank", run)
