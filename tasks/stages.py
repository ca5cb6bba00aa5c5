"""What the two training stages share: the store they read, and the artefacts they leave."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cbmr.encoder import Encoder, save_encoder
from cbmr.files import file_hash, write_json
from cbmr.logmel import MelSpec
from cbmr.spectrograms import SpectrogramStore, store_folder
from cbmr.vectors import Vectors, save_vectors
from tasks.command import defaults_of
from tasks.runs import MANIFESTS, say, write_manifest


def open_store(cfg: DictConfig, spec: MelSpec) -> SpectrogramStore:
    """The run's store of this spectrogram, scanned now if it is not there."""
    import tasks.scan

    scan = defaults_of("scan", cfg)
    scan.encoder.mel = vars(spec)
    folder = store_folder(Path(cfg.run) / "spectrograms", spec, scan.excerpt_s)
    if (folder / "catalogue.json").exists():
        say(f"using {folder}")
    else:
        say(f"scan: missing in {cfg.run}, made now by its defaults")
        tasks.scan.run(scan)
    return SpectrogramStore(folder)


def save_stage(
    cfg: DictConfig,
    stage: str,
    encoder: Encoder,
    vectors: Vectors,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Leave a stage's artefacts. Its manifest goes first and comes back last, so that a stage
    interrupted here is seen as missing, never as whole."""
    run = Path(cfg.run)
    folder = run / stage
    (run / MANIFESTS[stage]).unlink(missing_ok=True)
    save_encoder(folder / "encoder.pt", encoder)
    save_vectors(folder / "embeddings.npz", vectors)
    write_json(folder / "metrics.json", metrics)
    names = ("encoder.pt", "embeddings.npz")
    outputs = {name: file_hash(folder / name) for name in names}
    write_manifest(run, stage, settings, inputs, outputs=outputs)
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    say(f"{stage}: {numbers}; {len(vectors.track_ids)} vectors -> {folder}")
    if not cfg.holdout:
        say(f"{stage}: trained on every track (holdout=false), so no evaluation of it holds")
