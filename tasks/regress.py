"""`python -m tasks.regress`: stage 1, from sound to collaborative-filtering factors."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from cbmr.corpus import training_plays
from cbmr.errors import InputError
from cbmr.files import file_hash
from tasks.command import command, defaults_of
from tasks.manifests import is_fresh, plain, plays_hash, read_manifest, settings_of
from tasks.runs import read_corpus, require
from tasks.terminal import say

if TYPE_CHECKING:
    from tasks.stages import Material

LOSSES = ("mse", "cosine", "wpe", "mdn", "listeners")
READ_PLAYS = ("wpe", "listeners")


def material(cfg: DictConfig) -> "Material":
    """What stage 1 learns from: all that decides it beside the settings."""
    beginning = _encoder_file(cfg)
    corpus = read_corpus(cfg, needs=["plays"])
    require("factorize", cfg)

    from cbmr.logmel import MelSpec
    from tasks.stages import gather

    spec = MelSpec(**cfg.encoder.mel) if "mel" in cfg.encoder else None
    learned_from = gather(cfg, corpus, spec)
    inputs = {**learned_from.inputs}
    if beginning is not None:
        inputs["encoder_file"] = file_hash(beginning)
    if cfg.loss.name in READ_PLAYS:
        inputs["training plays"] = plays_hash(corpus, training_plays(corpus))
    return replace(learned_from, inputs=inputs)


def run(cfg: DictConfig) -> None:
    """Train the encoder to predict unit-norm factors and leave `regress/`."""
    _check(cfg)
    settings, learned_from = settings_of(cfg), material(cfg)
    train_rows, valid, inputs = learned_from.train_rows, learned_from.valid, learned_from.inputs
    options = _loss_options(cfg)
    if len(train_rows) < 2:
        raise InputError(
            f"{len(train_rows)} training tracks have both audio and factors: expected at least 2"
        )
    if is_fresh(Path(cfg.run), "regress", settings, inputs):
        return
    if not valid.has_listening:
        say("regress: no validation track has plays, so nothing is measured on the way")

    import numpy as np
    import torch

    from cbmr.batches import factor_batches
    from cbmr.embed import embed_store
    from cbmr.encoder import Encoder, begin_from, load_encoder
    from cbmr.evaluation.held_out import plays_in_store
    from cbmr.learners import FactorRegression, Listeners
    from cbmr.spectrograms import band_scale
    from tasks.stages import blended, fit, optimisation, save_stage

    store, targets, factors = learned_from.store, learned_from.targets, learned_from.factors
    torch.manual_seed(cfg.rng_seed)
    arguments = plain(cfg.encoder.arguments)
    arguments |= {"mels": store.mels, "embedding_size": targets.shape[1]}
    if cfg.loss.name == "mdn":
        arguments["components"] = cfg.loss.options.components
    scale = band_scale(store, train_rows)
    encoder = Encoder(cfg.encoder.name, arguments, store.mel_spec, *scale)
    beginning = _encoder_file(cfg)
    if beginning is not None:
        begin_from(encoder, load_encoder(beginning))
        say(f"regress: begins from {beginning}")
    plays = plays_in_store(learned_from.corpus, factors, store)
    learner = FactorRegression(
        encoder,
        valid.measure if valid.has_listening else None,
        loss=cfg.loss.name,
        options=options,
        listeners=Listeners(
            torch.from_numpy(factors.user_factors),
            torch.from_numpy(np.bincount(plays.user, minlength=len(factors.user_ids))).float(),
            learned=cfg.loss.name == "listeners",
        ),
        **optimisation(cfg, store.mel_spec),
    )
    batches = factor_batches(
        store,
        train_rows,
        targets[train_rows],
        plays if cfg.loss.name in READ_PLAYS else None,
        valid.rows if valid.has_listening else None,
        batch_size=cfg.batch_size,
        rng_seed=cfg.rng_seed,
        workers=cfg.workers,
    )
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    say(f"regress: {cfg.encoder.name}, {parameters:,} parameters, {len(train_rows)} tracks")
    fit(cfg, "regress", learner, batches, settings, inputs)
    vectors = embed_store(encoder, store)
    metrics: dict[str, float] = {
        "train_tracks": len(train_rows), "parameters": parameters, "epochs": cfg.epochs
    }  # fmt: skip
    listeners = learner.learned_listeners()
    users = None if listeners is None else listeners.detach().numpy()
    if valid.has_listening:
        numbers = valid.measure(vectors.vectors[valid.rows], users)
        metrics |= {f"valid_{name}": value for name, value in numbers.items()}
    heard_by = factors if users is None else replace(factors, user_factors=users)
    mixed = blended(defaults_of("embed", cfg), learned_from.corpus, heard_by, store, vectors)
    save_stage(
        cfg, "regress", encoder, vectors, metrics, settings, inputs, mixed=mixed, users=users
    )


def _loss_options(cfg: DictConfig) -> dict[str, Any]:
    """The loss's own options; weighted prediction error weighs as the factors' own fit did."""
    options = dict(cfg.loss.options)
    if cfg.loss.name == "wpe":
        made = read_manifest(Path(cfg.run), "factorize")
        model = made["settings"]["factors"]["name"]
        if model != "wmf":
            raise InputError(
                f"loss=wpe predicts what factors=wmf fits, and {cfg.run} has factors={model}: "
                "expected another loss, or python -m tasks.factorize factors=wmf first"
            )
        options |= {name: made["options"][name] for name in ("alpha", "eps")}
    return options


def _encoder_file(cfg: DictConfig) -> Path | None:
    if cfg.encoder_file is None:
        return None
    path = Path(cfg.encoder_file).expanduser()
    if not path.is_file():
        raise InputError(
            f"encoder_file={cfg.encoder_file} is not there: expected the encoder.pt of an earlier "
            "training, as python -m tasks.pretrain leaves one in RUN/pretrain"
        )
    return path


def _check(cfg: DictConfig) -> None:
    if cfg.loss.name not in LOSSES:
        raise InputError(f"loss={cfg.loss.name}: expected {', '.join(LOSSES)}; rank has others")
    if cfg.encoder.arguments.get("unit_output") and cfg.loss.name in ("wpe", "mdn"):
        raise InputError(
            f"encoder.arguments.unit_output=true with loss={cfg.loss.name}: what that objective "
            "predicts is not a unit vector; expected loss=mse, cosine or listeners with it"
        )


if __name__ == "__main__":
    command("regress", run)
