"""`python -m tasks.embed`: unit vectors of every readable track, after new ones were scanned."""

from pathlib import Path

from omegaconf import DictConfig

from cbmr.files import file_hash, read_json, write_json
from tasks.command import command
from tasks.runs import MANIFESTS, progress, say, serving_stage


def run(cfg: DictConfig) -> None:
    """Embed the run's store with a stage's encoder and replace that stage's `embeddings.npz`."""
    folder = Path(cfg.run)
    stage = serving_stage(cfg)

    from cbmr.embed import embed_store
    from cbmr.encoder import load_encoder
    from cbmr.vectors import save_vectors
    from tasks.stages import open_store

    encoder = load_encoder(folder / stage / "encoder.pt")
    store = open_store(cfg, encoder.mel_spec)
    with progress(f"embed {stage}") as report:
        vectors = embed_store(encoder, store, progress=report)
    save_vectors(folder / stage / "embeddings.npz", vectors)
    manifest = read_json(folder / MANIFESTS[stage])
    manifest["outputs"]["embeddings.npz"] = file_hash(folder / stage / "embeddings.npz")
    write_json(folder / MANIFESTS[stage], manifest)
    say(f"embed: {len(vectors.track_ids)} vectors -> {folder / stage / 'embeddings.npz'}")


if __name__ == "__main__":
    command("embed", run)
