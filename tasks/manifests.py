"""Manifests: what each artefact of a run was made by and from, and whether it still stands.

An artefact is stale only against the settings it was made with and the hashes of its inputs, never
against time.
"""

import importlib
import io
import shlex
from collections.abc import Mapping
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cbmr.corpus import Corpus, Plays
from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash, read_json, write_json
from tasks.terminal import say

if TYPE_CHECKING:
    from cbmr.factors import Factors

FORMAT_VERSION = 1
NOT_SETTINGS = ("corpus", "run", "workers", "hydra")
MANIFESTS = {
    "factorize": "factors.json",
    "pretrain": "pretrain/manifest.json",
    "regress": "regress/manifest.json",
    "rank": "rank/manifest.json",
    "update": "update/manifest.json",
    "index": "index/manifest.json",
    "evaluate": "evaluation/manifest.json",
    "analyze": "analysis/manifest.json",
}


def where(cfg: DictConfig) -> str:
    """The corpus and the run as one would type them."""
    return shlex.join([f"corpus={cfg.corpus}", f"run={cfg.run}"])


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Settings as a dictionary of plain values."""
    container = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def settings_of(cfg: DictConfig) -> dict[str, Any]:
    """The settings that decide what an artefact holds."""
    return {key: value for key, value in plain(cfg).items() if key not in NOT_SETTINGS}


def read_manifest(run: Path, task: str) -> dict[str, Any]:
    """What the artefact of `task` was made by and from: objects `settings`, `inputs` and `outputs`,
    and what else it says; InputError where the file is damaged or not there."""
    path = run / MANIFESTS[task]
    if not path.exists():
        raise InputError(f"{path} is not there: python -m tasks.{task} makes it")
    mend = f"delete it, and python -m tasks.{task} makes it anew"
    try:
        manifest = {"inputs": {}, "outputs": {}, **read_json(path)}
    except InputError as error:
        raise InputError(f"{error}; {mend}") from error
    for name in ("settings", "inputs", "outputs"):
        if not isinstance(manifest.get(name), dict):
            raise InputError(f"{path} has no {name}: it was edited; {mend}")
    return manifest


def missing_output(run: Path, task: str, manifest: Mapping[str, Any]) -> Path | None:
    """The first file that an artefact's manifest names and that is not there any more."""
    folder = (run / MANIFESTS[task]).parent
    files = (folder / name for name in manifest["outputs"])
    return next((file for file in files if not file.exists()), None)


def whole_manifest(cfg: DictConfig, task: str) -> dict[str, Any]:
    """`read_manifest` of an artefact that is built on: InputError where a file of it is gone."""
    manifest = read_manifest(Path(cfg.run), task)
    gone = missing_output(Path(cfg.run), task, manifest)
    if gone is not None:
        raise InputError(f"{gone} is gone: python -m tasks.{task} {where(cfg)} makes it again")
    return manifest


def is_fresh(run: Path, task: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Whether the artefact of `task` stands, whole, made by these settings from these inputs; one
    whose manifest is damaged does not."""
    path = run / MANIFESTS[task]
    if not path.exists():
        return False
    try:
        manifest = read_manifest(run, task)
    except InputError:
        say(f"{task}: {path} is damaged, so all is made anew")
        return False
    fresh = manifest["settings"] == settings and manifest["inputs"] == inputs
    for name, value in manifest["outputs"].items():
        file = path.parent / name
        fresh = fresh and file.exists() and file_hash(file) == value
    if fresh:
        say(f"{task}: up to date, same settings and inputs ({path})")
    return fresh


def of_same_space(manifest: Mapping[str, Any], factors_file: Path) -> bool:
    """Whether these factors are those that a stage was trained with, or what is left of them after
    rows were forgotten."""
    made_of = [manifest["inputs"].get("factors.npz"), *manifest.get("forgotten", ())]
    return file_hash(factors_file) in made_of


def require_same_space(cfg: DictConfig, stage: str, otherwise: str = "") -> None:
    """InputError where the run's factors are not of the space of this stage's vectors; `otherwise`
    is what else can be done."""
    path = Path(cfg.run) / "factors.npz"
    if of_same_space(read_manifest(Path(cfg.run), stage), path):
        return
    then = f", then python -m tasks.rank {where(cfg)}" if stage == "rank" else ""
    raise InputError(
        f"{path} has changed since {stage} was trained, so vectors and factors are of two spaces: "
        f"train again with python -m tasks.regress {where(cfg)}{then}{otherwise}"
    )


def factors_of(cfg: DictConfig, manifest: Mapping[str, Any]) -> "Factors | None":
    """The run's factors where a stage's vectors are of their space. Where they have changed since
    it was trained, which is said, or are not there, None."""
    path = Path(cfg.run) / "factors.npz"
    if "factors.npz" not in manifest.get("inputs", ()) or not path.exists():
        return None
    if not of_same_space(manifest, path):
        say(f"note: {path} has changed since these vectors were trained, so seeds ask by sound")
        return None

    from cbmr.factors import load_factors  # here, since it loads SciPy

    return load_factors(path)


def plays_hash(corpus: Corpus, plays: Plays) -> str:
    """Plays of a corpus, by the names of their listeners and tracks."""
    named = (corpus.track_ids[plays.track], corpus.user_ids[plays.user], plays.count)
    return content_hash(*named, *(() if plays.session is None else (plays.session,)))


def inputs_now(cfg: DictConfig, task: str) -> dict[str, str]:
    """What the inputs of a task's artefact are today, by the settings that made it."""
    manifest = read_manifest(Path(cfg.run), task)
    made_by = OmegaConf.create({**manifest["settings"], "corpus": cfg.corpus, "run": cfg.run})
    with redirect_stderr(io.StringIO()):  # what it would say of the corpus is known
        inputs: dict[str, str] = importlib.import_module(f"tasks.{task}").material(made_by).inputs
    return inputs


def write_manifest(
    run: Path,
    task: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    **more: Any,
) -> None:
    """Say what the artefact was made by and from; written last, it is what makes it count."""
    content = {"format_version": FORMAT_VERSION, "cbmr": version("cbmr"), "task": task}
    write_json(run / MANIFESTS[task], {**content, "settings": settings, "inputs": inputs, **more})
