"""`python -m tasks.status`: what a run holds, made how, and what is stale."""

from pathlib import Path

from omegaconf import DictConfig

from cbmr.files import file_hash, read_json
from tasks.command import command
from tasks.runs import MANIFESTS, where

MADE_FROM = {"factors.npz": "factors.npz", "regress/encoder.pt": "regress/encoder.pt"}


def run(cfg: DictConfig) -> None:
    """Print a line a task: missing, fresh, or stale and against what."""
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
        path = folder / name
        if not path.exists():
            print(f"{task:10s} missing: python -m tasks.{task} {where(cfg)}")
            continue
        manifest = read_json(path)
        stale = [
            f"{file} has changed since"
            for file, value in manifest.get("inputs", {}).items()
            if file in MADE_FROM and file_hash(folder / file) != value
        ]
        settings = _flat(manifest.get("settings", {}))
        print(f"{task:10s} {'stale: ' + ', '.join(stale) if stale else 'present'}  {settings}")


def _flat(settings: dict) -> str:
    return " ".join(
        f"{key}={value}" for key, value in settings.items() if not isinstance(value, dict)
    )


if __name__ == "__main__":
    command("status", run, writes=False)
