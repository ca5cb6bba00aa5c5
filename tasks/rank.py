"""`python -m tasks.rank`: stage 2, the encoder fine-tuned on radio thumbs."""

import json
from pathlib import Path

from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash
from tasks.command import command
from tasks.runs import is_fresh, progress, read_corpus, require, say, settings_of

LOSSES = ("drlim", "ranknet", "triplet")
LISTENING_LOSS = 0.01
"""An epoch that loses more listening AUC than this on validation is not kept."""


def run(cfg: DictConfig) -> None:
    """Fine-tune stage 1's encoder and leave `rank/`; stage 1's own where that is no better."""
    if cfg.loss.name not in LOSSES:
        raise InputError(f"loss={cfg.loss.name}: expected {', '.join(LOSSES)}; regress has others")
    flip_rate = cfg.loss.options.get("flip_rate", 0.0)
    if not 0 <= flip_rate < 0.5:
        raise InputError(f"flip_rate={flip_rate}: expected at least 0 and below 0.5")
    corpus = read_corpus(cfg, needs=["plays", "thumbs"])
    require("regress", cfg)

    import numpy as np
    import torch

    from cbmr.batches import station_batches
    from cbmr.embed import embed_store
    from cbmr.encoder import load_encoder
    from cbmr.evaluation.held_out import held_out, votes_in_store
    from cbmr.factors import load_factors, unit_targets
    from cbmr.learners import ThumbRanking, train
    from cbmr.preferences import make_preferences
    from cbmr.vectors import load_vectors
    from tasks.stages import open_store, save_stage

    folder, settings = Path(cfg.run), settings_of(cfg)
    encoder_file = folder / "regress" / "encoder.pt"
    encoder = load_encoder(encoder_file)
    stage_1 = load_vectors(folder / "regress" / "embeddings.npz")
    store = open_store(cfg, encoder.mel_spec)
    votes = votes_in_store(corpus, store, "train")
    if not len(votes):
        raise InputError(
            f"{cfg.corpus}: none of the thumbs has a training track on a training seed, with "
            "audio: stage 2 has nothing to learn from"
        )
    named = (corpus.user_ids[votes.user], store.track_ids[votes.seed], store.track_ids[votes.track])
    inputs = {
        "spectrograms": store.fingerprint,
        "factors.npz": file_hash(folder / "factors.npz"),
        "regress/encoder.pt": file_hash(encoder_file),
        "training votes": content_hash(*named, votes.up),
    }
    if is_fresh(folder, "rank", settings, inputs):
        return

    preferences = make_preferences(votes)
    if cfg.loss.name != "drlim" and not len(preferences.pairs):
        raise InputError(
            f"loss={cfg.loss.name} learns from an up and a down on one listener's station, and no "
            "station has both: use loss=drlim"
        )
    factors = load_factors(folder / "factors.npz")
    targets = unit_targets(factors, store.track_ids)
    targets[~np.isin(store.track_ids, corpus.track_ids[corpus.in_split("train")])] = np.nan
    valid = held_out(corpus, factors, store)
    has_validation = valid.has_listening and valid.has_votes
    before = valid.measure(embedded(stage_1, store.track_ids[valid.rows]))
    if not has_validation:
        say("rank: no validation votes of both kinds, so the last epoch is kept")

    def validate(embeddings: np.ndarray) -> dict[str, float]:
        now = valid.measure(embeddings)
        forgot = now["listening_auc"] < before["listening_auc"] - LISTENING_LOSS
        return {**now, "score": 0.0 if forgot else now["thumbs_auc"]}

    torch.manual_seed(cfg.rng_seed)
    spec = encoder.mel_spec
    learner = ThumbRanking(
        encoder,
        validate if has_validation else None,
        loss=cfg.loss.name,
        options=dict(cfg.loss.options),
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
        valid.rows if has_validation else None,
        batch_size=cfg.batch_size,
        rng_seed=cfg.rng_seed,
        workers=cfg.workers,
    )
    say(
        f"rank: {cfg.loss.name} on {len(votes)} votes of {len(preferences.stations)} stations, "
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
        after = validate(vectors.vectors[valid.rows])
        if after["score"] <= before["thumbs_auc"]:
            say("rank: no epoch beats stage 1 on validation, so stage 1's encoder is exported")
            encoder, vectors, after = load_encoder(encoder_file), stage_1, {**before}
            metrics["epoch"] = 0
        for name, value in before.items():
            metrics |= {f"valid_{name}": after[name], f"valid_{name}_stage_1": value}
    save_stage(cfg, "rank", encoder, vectors, metrics, settings, inputs)


def embedded(vectors, track_ids):
    """The vectors `[tracks, embedding_size]` of these tracks."""
    from cbmr.corpus import rows_of

    return vectors.vectors[rows_of(vectors.track_ids, track_ids)]


if __name__ == "__main__":
    command("rank", run)
