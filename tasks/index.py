"""`python -m tasks.index`: a stage's vectors to an index for serving."""

from pathlib import Path

from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.files import read_json, write_json
from tasks.command import command
from tasks.manifests import MANIFESTS, read_manifest
from tasks.runs import SERVED, first_stage, require, serving_stage
from tasks.terminal import say


def run(cfg: DictConfig) -> None:
    """Build the index of the run's best stage, measure it, and leave `index/`; with a correction of
    hubs, what playlists need for it."""
    if cfg.hubs not in ("none", "local_scaling"):
        raise InputError(f"hubs={cfg.hubs}: expected none or local_scaling")
    folder = Path(cfg.run)
    if not any((folder / MANIFESTS[stage]).exists() for stage in SERVED):
        require(first_stage(cfg), cfg)
    stage = serving_stage(cfg)

    from cbmr.hubs import crowding_of, measure_hubs, save_crowding
    from cbmr.index import build_index
    from cbmr.vectors import load_vectors

    vectors = load_vectors(folder / stage / "embeddings.npz")
    encoder_hash = read_manifest(folder, stage)["outputs"]["encoder.pt"]
    built = build_index(
        folder / "index",
        vectors,
        encoder_hash=encoder_hash,
        recall=cfg.recall,
        backend=cfg.backend,
    )
    if built.recall < cfg.recall:
        say(f"index: Annoy cannot reach recall={cfg.recall} here, with all tracks as candidates")
    say(
        f"index: {len(vectors.track_ids)} tracks of {stage}; Annoy's recall@10 is "
        f"{built.recall:.3f} with trees={built.trees} and search_k={built.search_k}, at "
        f"{built.annoy_ms:.3f} ms a query, exact search takes {built.exact_ms:.3f} ms: "
        f"{built.backend} answers -> {folder / 'index'}"
    )
    hubs = {"as they are": measure_hubs(vectors.vectors)}
    if cfg.hubs == "none":
        (folder / "index" / "crowding.npz").unlink(missing_ok=True)
    else:
        save_crowding(folder / "index", vectors, crowding_of(vectors.vectors), encoder_hash)
        hubs["corrected"] = measure_hubs(vectors.vectors, corrected=True)
    say(f"index: hubs: {'; '.join(f'{name}, {of}' for name, of in hubs.items())}")
    manifest = read_json(folder / MANIFESTS["index"])
    manifest["hubs"] = {name: vars(of) for name, of in hubs.items()}
    write_json(folder / MANIFESTS["index"], manifest)


if __name__ == "__main__":
    command("index", run)
