"""`python -m tasks.status`: what a run holds, made how, and what is stale."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from cbmr.errors import InputError
from cbmr.files import read_json
from tasks.command import command
from tasks.manifests import MANIFESTS, inputs_now, missing_output, read_manifest, where
from tasks.runs import serving_stage

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
        print(f"scan       {store.parent.name}: {_scanned(store)}")
    for task, name in MANIFESTS.items():
        if task == "update" and not (folder / name).exists():
            continue  # only an encoder from elsewhere leaves it
        if not (folder / name).exists():
            print(f"{task:10s} missing: python -m tasks.{task} {where(cfg)}")
            continue
        why = stale(cfg, task)
        state = f"stale: {why}" if why else "present"
        print(f"{task:10s} {state}  {_settings(folder, task)}".rstrip())


def stale(cfg: DictConfig, task: str) -> str:
    """What has changed since the artefact of `task` was made; empty when nothing has."""
    try:
        return _changed(cfg, task)
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"


def _changed(cfg: DictConfig, task: str) -> str:
    folder = Path(cfg.run)
    if task == "index":
        return _check_index(cfg)
    manifest = read_manifest(folder, task)
    lost = missing_output(folder, task, manifest)
    if lost is not None:
        return f"{lost.name} is gone"
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
    encoder_hash = read_manifest(folder, stage)["outputs"]["encoder.pt"]
    index = load_index(folder / "index", vectors, encoder_hash=encoder_hash)
    return f"{index.changed} tracks changed since" if index.changed else ""


def _scanned(catalogue: Path) -> str:
    try:
        found = read_json(catalogue)
        return f"{len(found['tracks'])} tracks, {len(found['skipped'])} skipped"
    except (InputError, KeyError):
        return "damaged: delete the folder, and python -m tasks.scan decodes all anew"


def _settings(folder: Path, task: str) -> str:
    """The settings on a line; of a group, the option's name. None where `stale` tells why not."""
    try:
        settings = read_manifest(folder, task)["settings"]
    except InputError:
        return ""
    return " ".join(
        f"{key}={value['name'] if isinstance(value, dict) else value}"
        for key, value in settings.items()
        if not isinstance(value, dict) or "name" in value
    )


if __name__ == "__main__":
    command("status", run, writes=False)
