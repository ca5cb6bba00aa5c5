"""`python -m tasks.index`: a stage's vectors to an index for serving."""

from pathlib import Path

from omegaconf import DictConfig

from cbmr.files import read_json
from tasks.command import command
from tasks.runs import MANIFESTS, SERVED, first_stage, require, say, serving_stage


def run(cfg: DictConfig) -> None:
    """Build the index of the run's best stage, measure it, and leave `index/`."""
    folder = Path(cfg.run)
    if not any((folder / MANIFESTS[stage]).exists() for stage in SERVED):
        require(first_stage(cfg), cfg)
    stage = serving_stage(cfg)

    from cbmr.index import build_index
    from cbmr.vectors import load_vectors

    vectors = load_vectors(folder / stage / "embeddings.npz")
    encoder_hash = read_json(folder / MANIFESTS[stage])["outputs"]["encoder.pt"]
    built = build_index(folder / "index", vectors, encoder_hash=encoder_hash, trees=cfg.trees)
    say(
        f"index: {len(vectors.track_ids)} tracks of {stage}; Annoy's recall@10 is "
        f"{built.recall:.3f} at {built.annoy_ms:.3f} ms a query, exact search takes "
        f"{built.exact_ms:.3f} ms: {built.backend} answers -> {folder / 'index'}"
    )


if __name__ == "__main__":
    command("index", run)
