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
    if cfg.loss not in LOSSES:
        raise InputError(f"loss={cfg.loss}: expected {' or '.join(LOSSES)}; rank has others")
    corpus = read_corpus(cfg, needs=["plays"])
    require("factorize", cfg)

    import numpy as np
    import torch

    from cbmr.batches import factor_batches
    from cbmr.embed import embed_store
    from cbmr.encoder import Encoder
    from cbmr.factors import load_factors
    from cbmr.learners import FactorRegression, train
    from cbmr.logmel import MelSpec
    from tasks.stages import HeldOutListening, open_store, save_stage, split_rows, unit_targets

    folder, settings = Path(cfg.run), settings_of(cfg)
    spec = MelSpec(**cfg.encoder.mel)
    store = open_store(cfg, spec)
    factors = load_factors(folder / "factors.npz")
    targets = unit_targets(store, factors)
    train_rows = split_rows(store, corpus, "train")
    train_rows = train_rows[~np.isnan(targets[train_rows]).any(axis=1)]
    valid_rows = split_rows(store, corpus, "valid")
    if len(train_rows) < 2:
        raise InputError(
            f"{len(train_rows)} training tracks have both audio and factors: expected at least 2"
        )
    inputs = {
        "spectrograms": store.fingerprint,
        "factors.npz": file_hash(folder / "factors.npz"),
        "split": content_hash(train_rows, valid_rows),
    }
    if is_fresh(folder, "regress", settings, inputs):
        return

    listening = HeldOutListening(corpus, factors, store, valid_rows)
    if not listening:
        say("regress: no validation track has plays, so the last epoch is kept")

    def validate(embeddings: np.ndarray) -> dict[str, float]:
        return {"score": listening.auc(embeddings)}

    torch.manual_seed(cfg.rng_seed)
    arguments = OmegaConf.to_container(cfg.encoder.arguments)
    arguments |= {"mels": spec.mels, "embedding_size": targets.shape[1]}
    mean, std = band_scale(store, train_rows)
    encoder = Encoder(cfg.encoder.name, arguments, spec, mean, std)
    learner = FactorRegression(
        encoder,
        validate if listening else None,
        learning_rate=cfg.learning_rate,
        weight_decay=cfg.weight_decay,
        crop_frames=spec.frames(spec.samples(cfg.crop_s)),
        rng_seed=cfg.rng_seed,
    )
    batches = factor_batches(
        store,
        train_rows,
        targets[train_rows],
        valid_rows if listening else None,
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
    metrics = {"train_tracks": len(train_rows), "epoch": epoch, "parameters": parameters}
    if listening:
        metrics["valid_listening_auc"] = listening.auc(vectors.vectors[valid_rows])
    save_stage(folder, "regress", encoder, vectors, metrics, settings, inputs)
    shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    say(f"regress: {shown}")
    if not cfg.holdout:
        say("regress: trained on every track (holdout=false), so no evaluation of it holds")


def band_scale(store, rows):
    """Mean and standard deviation `[mels]` of each band over the real frames of these rows."""
    import numpy as np
    import torch

    total, square, count = 0.0, 0.0, 0
    for row in rows:
        real = store[np.array([row])][0, :, : store.frames[row]].astype(np.float64)
        total, square = total + real.sum(axis=1), square + np.square(real).sum(axis=1)
        count += real.shape[1]
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    return torch.tensor(mean).float(), torch.tensor(std).float()


if __name__ == "__main__":
    command("regress", run)
