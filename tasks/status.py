"""`python -m tasks.status`: what a run holds, made how, and what is stale."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cbmr.errors import InputError
from cbmr.files import read_json
from tasks.command import command
from tasks.runs import MANIFESTS, inputs_now, serving_stage, where

NEEDED = {
    "regress": ("factors.json",),
    "rank": ("factors.json", "regress/manifest.json"),
    "evaluate": ("factors.json", "regress/manifest.json"),
}


def run(cfg: DictConfig) -> None:
    """Print a line a task: missing, present, or stale and against what."""
    folder = Path(cfg.run)
    if not folder.is_dir():
        print(f"{folder}: nothing yet")
        return
    for store in sorted(folder.glob("spectrograms/*/catalogue.json")):
        catalogue = read_json(store)
        print(
            f"scan       {store.parent.name}: {len(catalogue['tracks'])} tracks, "
            f"{len(catalogue['skipped'])} skipped"
        )
    for task, name in MANIFESTS.items():
        if task == "update" and not (folder / name).exists():
            continue  # only an encoder from elsewhere leaves it
        if not (folder / name).exists():
            print(f"{task:10s} missing: python -m tasks.{task} {where(cfg)}")
            continue
        why = stale(cfg, task)
        state = f"stale: {why}" if why else "present"
        settings = read_json(folder / name).get("settings", {})
        print(f"{task:10s} {state}  {_flat(settings)}".rstrip())


def stale(cfg: DictConfig, task: str) -> str:
    """What has changed since the artefact of `task` was made; empty when nothing has."""
    try:
        return _changed(cfg, task)
    except InputError as error:
        return str(error)


def _changed(cfg: DictConfig, task: str) -> str:
    folder = Path(cfg.run)
    manifest = read_json(folder / MANIFESTS[task])
    if task == "index":
        return _check_index(cfg)
    gone = [name for name in NEEDED.get(task, ()) if not (folder / name).exists()]
    hears = "mel" in manifest["settings"].get("encoder", {})
    if hears and not list(folder.glob("spectrograms/*/catalogue.json")):
        gone.append("spectrograms/")
    if gone:
        return f"{gone[0]} is gone"
    then, now = manifest["inputs"], inputs_now(cfg, task)
    changed = [name for name, value in then.items() if now.get(name) != value]
    return f"{', '.join(changed)} changed since" if changed else ""


def _check_index(cfg: DictConfig) -> str:
    from cbmr.index import load_index
    from cbmr.vectors import load_vectors

    folder = Path(cfg.run)
    stage = serving_stage(OmegaConf.create({"corpus": cfg.corpus, "run": cfg.run, "stage": None}))
    vectors = load_vectors(folder / stage / "embeddings.npz")
    encoder_hash = read_json(folder / MANIFESTS[stage])["outputs"]["encoder.pt"]
    index = load_index(folder / "index", vectors, encoder_hash=encoder_hash)
    return f"{index.changed} tracks changed since" if index.changed else ""


def _flat(settings: dict[str, Any]) -> str:
    """The settings on a line; of a group, the option's name."""
    return " ".join(
        f"{key}={value['name'] if isinstance(value, dict) else value}"
        for key, value in settings.items()
        if not isinstance(value, dict) or "name" in value
    )


if __name__ == "__main__":
    command("status", run, writes=False)
