"""`python -m tasks.factorize`: plays to collaborative-filtering factors."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from cbmr.corpus import Corpus, Plays, training_plays
from cbmr.files import content_hash, file_hash
from tasks.command import command
from tasks.runs import is_fresh, read_corpus, say, settings_of, write_manifest


@dataclass(frozen=True)
class Material:
    """What the factors are fitted on, and its hashes."""

    corpus: Corpus
    plays: Plays
    inputs: dict[str, str]


def material(cfg: DictConfig) -> Material:
    """The plays of training tracks: all that decides the factors beside the settings."""
    corpus = read_corpus(cfg, needs=["plays"])
    plays = training_plays(corpus)
    named = (corpus.track_ids[plays.track], corpus.user_ids[plays.user], plays.count)
    return Material(corpus, plays, {"training plays": content_hash(*named)})


def run(cfg: DictConfig) -> None:
    """Fit the factors and write `factors.npz`."""
    learned_from = material(cfg)
    corpus, plays, inputs = learned_from.corpus, learned_from.plays, learned_from.inputs
    folder, settings = Path(cfg.run), settings_of(cfg)
    if is_fresh(folder, "factorize", settings, inputs):
        return

    from cbmr.factors import factorize, save_factors, tune

    model = {"regularization": cfg.regularization, "alpha": cfg.alpha, "eps": cfg.eps}
    shared = {"factors": cfg.factors, "rng_seed": cfg.rng_seed}
    if cfg.tune:
        model = tune(plays, corpus.track_ids, corpus.user_ids, report=say, **shared)
        say(f"factorize: chosen {model}")
    fitted = factorize(plays, corpus.track_ids, corpus.user_ids, **model, **shared)
    save_factors(folder / "factors.npz", fitted)
    output = {"factors.npz": file_hash(folder / "factors.npz")}
    write_manifest(folder, "factorize", settings, inputs, outputs=output, model=model)
    say(
        f"factorize: {cfg.factors} factors of {len(fitted.track_ids)} tracks and "
        f"{len(fitted.user_ids)} listeners -> {folder / 'factors.npz'}"
    )


if __name__ == "__main__":
    command("factorize", run)
