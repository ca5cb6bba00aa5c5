"""`python -m tasks.regress`: stage 1, from sound to collaborative-filtering factors."""

import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash
from tasks.command import command
from tasks.runs import is_fresh, progress, read_corpus, require, say, settings_of

LOSSES = ("mse",)


def run(cfg: DictConfig) -> None:
    """Train the encoder to predict unit-norm factors and leave `regress/`."""
    if cfg.loss.name not in LOSSES:
        raise InputError(f"loss={cfg.loss.name}: expected {', '.join(LOSSES)}; rank has others")
    corpus = read_corpus(cfg, needs=["plays"])
    require("factorize", cfg)

    import numpy as np
    import torch

    from cbmr.batches import factor_batches
    from cbmr.embed import embed_store
    from cbmr.encoder import Encoder
    from cbmr.evaluation.held_out import held_out
    from cbmr.factors import load_factors, unit_targets
    from cbmr.learners import FactorRegression, train
    from cbmr.logmel import MelSpec
    from cbmr.spectrograms import band_scale
    from tasks.stages import open_store, save_stage

    folder, settings = Path(cfg.run), settings_of(cfg)
    spec = MelSpec(**cfg.encoder.mel)
    store = open_store(cfg, spec)
    factors = load_factors(folder / "factors.npz")
    targets = unit_targets(factors, store.track_ids)
    in_training = np.isin(store.track_ids, corpus.track_ids[corpus.in_split("train")])
    train_rows = np.flatnonzero(in_training & ~np.isnan(targets).any(axis=1))
    if len(train_rows) < 2:
        raise InputError(
            f"{len(train_rows)} training tracks have both audio and factors: expected at least 2"
        )
    valid = held_out(corpus, factors, store)
    inputs = {
        "spectrograms": store.fingerprint,
        "factors.npz": file_hash(folder / "factors.npz"),
        "split": content_hash(store.track_ids[train_rows], store.track_ids[valid.rows]),
    }
    if is_fresh(folder, "regress", settings, inputs):
        return
    if not valid.has_listening:
        say("regress: no validation track has plays, so the last epoch is kept")

    def validate(embeddings: np.ndarray) -> dict[str, float]:
        numbers = valid.measure(embeddings)
        return {**numbers, "score": numbers["listening_auc"]}

    torch.manual_seed(cfg.rng_seed)
    arguments = OmegaConf.to_container(cfg.encoder.arguments)
    arguments |= {"mels": spec.mels, "embedding_size": targets.shape[1]}
    encoder = Encoder(cfg.encoder.name, arguments, spec, *band_scale(store, train_rows))
    learner = FactorRegression(
        encoder,
        validate if valid.has_listening else None,
        learning_rate=cfg.learning_rate,
        weight_decay=cfg.weight_decay,
        crop_frames=spec.frames(spec.samples(cfg.crop_s)),
        rng_seed=cfg.rng_seed,
    )
    batches = factor_batches(
        store,
        train_rows,
        targets[train_rows],
        valid.rows if valid.has_listening else None,
        batch_size=cfg.batch_size,
        rng_seed=cfg.rng_seed,
        workers=cfg.workers,
    )
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    say(f"regress: {cfg.encoder.name}, {parameters:,} parameters, {len(train_rows)} tracks")
    with progress("regress") as report:
        epoch = train(
            learner,
            batches,
            folder / "regress",
            epochs=cfg.epochs,
            fingerprint=content_hash(json.dumps([settings, inputs])),
            progress=report,
        )
    vectors = embed_store(encoder, store)
    metrics = {"train_tracks": len(train_rows), "parameters": parameters, "epoch": epoch}
    if valid.has_listening:
        numbers = valid.measure(vectors.vectors[valid.rows])
        metrics |= {f"valid_{name}": value for name, value in numbers.items()}
    save_stage(cfg, "regress", encoder, vectors, metrics, settings, inputs)


if __name__ == "__main__":
    command("regress", run)
