"""`python -m tasks.regress`: stage 1, from sound to collaborative-filtering factors."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from cbmr.errors import InputError
from cbmr.factors import unit_rows
from cbmr.files import file_hash, read_json
from tasks.command import command, defaults_of
from tasks.runs import (
    MANIFESTS,
    is_fresh,
    plays_hash,
    read_corpus,
    require,
    say,
    settings_of,
)

if TYPE_CHECKING:
    from cbmr.learners import FactorRegression
    from cbmr.learners.learner import Validate
    from tasks.stages import Material

LOSSES = ("mse", "cosine", "wpe", "mdn", "listeners")
READ_PLAYS = ("wpe", "listeners")
FOLD = "regress/fold{}"
SOFT = 0.5
"""Of a softened target, what is foretold; half was the best of .5 and .8 on two demo worlds."""


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
        inputs["training plays"] = plays_hash(corpus)
    return replace(learned_from, inputs=inputs)


def run(cfg: DictConfig) -> None:
    """Train the encoder to predict unit-norm factors and leave `regress/`."""
    _check(cfg)
    settings, learned_from = settings_of(cfg), material(cfg)
    train_rows, valid, inputs = learned_from.train_rows, learned_from.valid, learned_from.inputs
    options = _loss_options(cfg)
    if len(train_rows) < max(2, cfg.cross_fit):
        raise InputError(
            f"{len(train_rows)} training tracks have both audio and factors: expected at least "
            f"{max(2, cfg.cross_fit)}"
        )
    if is_fresh(Path(cfg.run), "regress", settings, inputs):
        return
    if not valid.has_listening:
        say("regress: no validation track has plays, so nothing is measured on the way")

    from cbmr.embed import embed_store
    from tasks.stages import blended, save_stage

    store, factors, targets = learned_from.store, learned_from.factors, learned_from.targets
    train = partial(_train, cfg, learned_from, options, settings)
    if cfg.cross_fit:
        targets = _softened(cfg, learned_from, train)
    validate = valid.measure if valid.has_listening else None
    learner, epoch = train(train_rows, targets, "regress", validate)
    encoder = learner.encoder
    vectors = embed_store(encoder, store)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    metrics = {"train_tracks": len(train_rows), "parameters": parameters, "epoch": epoch}
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
    for folder in Path(cfg.run).glob(FOLD.format("*")):
        shutil.rmtree(folder)


def _softened(
    cfg: DictConfig,
    learned_from: "Material",
    train: Callable[..., tuple["FactorRegression", int]],
) -> np.ndarray:
    """Targets `[tracks of the store, factors]` half-way to what encoders predict that were trained
    without these tracks, each on all folds but one.

    What they cannot foretell, such as chance in a track's plays, the encoder would have to learn by
    heart. Soft targets (Hinton, Vinyals & Dean 2015) of a teacher that has not seen the answers.
    """
    from cbmr.embed import embed_each

    rows = learned_from.train_rows
    fold = np.random.default_rng(cfg.rng_seed).permutation(len(rows)) % cfg.cross_fit
    softened = learned_from.targets.copy()
    for number in range(cfg.cross_fit):
        unseen = rows[fold == number]
        stage = FOLD.format(number + 1)
        teacher, _ = train(rows[fold != number], learned_from.targets, stage, None)
        foretold = embed_each(teacher.encoder, learned_from.store, unseen).vectors
        softened[unseen] = unit_rows((1 - SOFT) * softened[unseen] + SOFT * foretold)
    return softened


def _train(
    cfg: DictConfig,
    learned_from: "Material",
    options: dict[str, Any],
    settings: dict[str, Any],
    rows: np.ndarray,
    targets: np.ndarray,
    stage: str,
    validate: "Validate | None",
) -> tuple["FactorRegression", int]:
    """An encoder trained on these rows of the store, and its last epoch's number.

    The last, as its learning rate ends at zero: the best of so many on a few validation tracks is
    mostly their chance.
    """
    import torch

    from cbmr.batches import factor_batches
    from cbmr.encoder import Encoder, begin_from, load_encoder
    from cbmr.evaluation.held_out import plays_in_store
    from cbmr.learners import FactorRegression, Listeners
    from cbmr.spectrograms import band_scale
    from tasks.stages import fit, optimisation

    store, factors = learned_from.store, learned_from.factors
    torch.manual_seed(cfg.rng_seed)
    arguments = OmegaConf.to_container(cfg.encoder.arguments)
    arguments |= {"mels": store.mels, "embedding_size": targets.shape[1]}
    if cfg.loss.name == "mdn":
        arguments["components"] = cfg.loss.options.components
    encoder = Encoder(cfg.encoder.name, arguments, store.mel_spec, *band_scale(store, rows))
    beginning = _encoder_file(cfg)
    if beginning is not None:
        begin_from(encoder, load_encoder(beginning))
        say(f"{stage}: begins from {beginning}")
    plays = plays_in_store(learned_from.corpus, factors, store)
    learner = FactorRegression(
        encoder,
        validate,
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
        rows,
        targets[rows],
        plays if cfg.loss.name in READ_PLAYS else None,
        None if validate is None else learned_from.valid.rows,
        batch_size=cfg.batch_size,
        rng_seed=cfg.rng_seed,
        workers=cfg.workers,
    )
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    say(f"{stage}: {cfg.encoder.name}, {parameters:,} parameters, {len(rows)} tracks")
    inputs = learned_from.inputs
    return learner, fit(cfg, stage, learner, batches, settings, inputs, keep_best=False)


def _loss_options(cfg: DictConfig) -> dict[str, Any]:
    """The loss's own options; weighted prediction error weighs as the factors' own fit did."""
    options = dict(cfg.loss.options)
    if cfg.loss.name == "wpe":
        made = read_json(Path(cfg.run) / MANIFESTS["factorize"])
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
    folds = cfg.cross_fit
    if folds < 0 or folds == 1:
        raise InputError(f"cross_fit={folds}: expected 2 or more folds, or 0 for none")
    if folds and cfg.loss.name in READ_PLAYS:
        raise InputError(
            f"cross_fit={folds} softens targets, and loss={cfg.loss.name} learns from plays: "
            "expected another loss, or cross_fit=0"
        )
    if cfg.encoder.arguments.get("unit_output") and cfg.loss.name in ("wpe", "mdn"):
        raise InputError(
            f"encoder.arguments.unit_output=true with loss={cfg.loss.name}: what that objective "
            "predicts is not a unit vector; expected loss=mse or cosine with it"
        )


if __name__ == "__main__":
    command("regress", run)
