"""The run folder: its lock, its manifests, and building what is missing upstream.

An artefact is stale only against the settings it was made with and the hashes of its inputs, never
against time. What exists is used as it is; what a task requires and is missing is built by its own
task's defaults; and each is said, on standard error.
"""

import importlib
import io
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from cbmr.corpus import Corpus, Plays
from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash, read_json, write_json

if TYPE_CHECKING:
    from cbmr.factors import Factors

FORMAT_VERSION = 1
DEMO_CORPUS = Path("corpora/demo")
NOT_SETTINGS = ("corpus", "run", "workers", "hydra")
SERVED = ("rank", "regress", "pretrain", "update")
"""Stages that leave vectors, the best first; `update` has its encoder from elsewhere."""
OF_FACTORS = ("regress", "rank")
"""Those whose vectors are of the space of the plays' factors."""
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

UPSTREAM = ("scan", "factorize", "pretrain", "regress", "rank", "index")
"""What may come before a task, in this order; all of it before those that are not here."""
CHANGE = ("embed", "forget", "update")
"""Tasks that change what others made."""
LEAVES = {"scan": ("spectrograms",), "factorize": ("factors.npz", "factors.json")}
"""What a task leaves in the run, where that is no folder of its own name."""


def say(text: str) -> None:
    """A line for the person, on standard error: standard output is for results."""
    print(text, file=sys.stderr, flush=True)


STATIONS_LOCK = ".stations.lock"
"""Beside the run's own, which a training holds for hours."""


@contextmanager
def locked(run: Path, name: str = ".lock", *, waits: bool = True) -> Iterator[bool]:
    """Hold the run's lock of that name. A second process waits, and says so, or with `waits=False`
    is told that it does not hold it."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"run={run} is a file: expected a folder, made where missing") from None
    lock = FileLock(run / name)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not waits:
                yield False
                return
            say(f"{run} is in use by another process; waiting for it to end")
            lock.acquire()
        yield True
    finally:
        lock.release()


def read_corpus(
    cfg: DictConfig,
    *,
    needs: Collection[str] = (),
    uses: Collection[str] = (),
    holdout: bool | None = None,
    sessions: bool = False,
) -> Corpus:
    """The corpus of `cfg`, its notes said; the demo world is made on first use. `holdout` where it
    is not a setting of the task; `sessions` keeps the training plays of each session apart."""
    from cbmr.sources.tables import read_corpus as read

    folder = Path(cfg.corpus)
    if folder == DEMO_CORPUS and not (folder / "tracks.parquet").exists():
        from tasks.demo import make_world

        make_world(cfg)
    if holdout is None:
        holdout = cfg.get("holdout", True)
    corpus = read(folder, needs=needs, uses=uses, holdout=holdout, sessions=sessions)
    for note in corpus.notes:
        say(f"note: {note}")
    return corpus


def require(task: str, cfg: DictConfig) -> None:
    """Build the artefact of `task` by that task's own defaults, if it is missing."""
    from tasks.command import defaults_of

    manifest = Path(cfg.run) / MANIFESTS[task]
    if manifest.exists():
        whole_manifest(cfg, task)
        say(f"using {manifest.parent if manifest.name == 'manifest.json' else manifest}")
        return
    say(f"{task}: missing in {cfg.run}, made now by its defaults")
    importlib.import_module(f"tasks.{task}").run(defaults_of(task, cfg))


def share(run: Path, job: Path, task: str) -> None:
    """Let a job's run begin from what comes before `task` in another run, by links to it; nothing
    is shared with a task that would change it there."""
    if task in CHANGE:
        return
    before = UPSTREAM[: UPSTREAM.index(task)] if task in UPSTREAM else UPSTREAM
    for name in (name for made in before for name in LEAVES.get(made, (made,))):
        link = job / name
        if (run / name).exists() and not link.is_symlink() and not link.exists():
            job.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path("..") / name)


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


def missing_output(run: Path, task: str) -> Path | None:
    """The first file that an artefact's manifest names and that is not there any more."""
    folder = (run / MANIFESTS[task]).parent
    files = (folder / name for name in read_manifest(run, task)["outputs"])
    return next((file for file in files if not file.exists()), None)


def whole_manifest(cfg: DictConfig, task: str) -> dict[str, Any]:
    """`read_manifest` of an artefact that is built on: InputError where a file of it is gone."""
    gone = missing_output(Path(cfg.run), task)
    if gone is not None:
        raise InputError(f"{gone} is gone: python -m tasks.{task} {where(cfg)} makes it again")
    return read_manifest(Path(cfg.run), task)


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


def first_stage(cfg: DictConfig) -> str:
    """The stage that a run begins with: where nobody's plays are known, pretraining."""
    names = ("plays.parquet", "plays.csv")
    played = any((Path(cfg.corpus).expanduser() / name).exists() for name in names)
    return "regress" if played or Path(cfg.corpus) == DEMO_CORPUS else "pretrain"


def serving_stage(cfg: DictConfig) -> str:
    """The stage whose vectors are served: `stage=` where given, else the first of `SERVED`."""
    run = Path(cfg.run)
    stages = [name for name in SERVED if (run / MANIFESTS[name]).exists()]
    if cfg.stage is not None:
        if cfg.stage not in SERVED:
            raise InputError(f"stage={cfg.stage}: expected one of {', '.join(SERVED)}")
        stages = [name for name in stages if name == cfg.stage]
    if not stages:
        task = cfg.stage or first_stage(cfg)
        raise InputError(
            f"{run} has no {task}/embeddings.npz yet; make it with: "
            f"python -m tasks.{task} {where(cfg)}"
        )
    vectors = run / stages[0] / "embeddings.npz"
    if not vectors.exists():
        raise InputError(
            f"{vectors} is gone: python -m tasks.{stages[0]} {where(cfg)} makes it again"
        )
    return stages[0]


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None]]:
    """A bar with rate and time left on a terminal, a line every ten seconds elsewhere.

    Yields `report(done, total, numbers={})`.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[last]}"),
    )  # fmt: skip
    console = Console(stderr=True)
    began = printed = time.monotonic()
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    shown = bar.add_task(what, total=None, rate="", last="")
    first: int | None = None

    def report(done: int, total: int, numbers: Mapping[str, float] | None = None) -> None:
        nonlocal printed, first
        first = done - 1 if first is None else first  # a resumed task starts in the middle
        now = time.monotonic()
        rate = (done - first) / max(now - began, 1e-9)
        bar.update(shown, completed=done, total=total, rate=f"{rate:.1f}/s")
        if numbers:
            last = " ".join(f"{key} {value:.4f}" for key, value in numbers.items())
            bar.update(shown, last=last)
        last_step = done == total and not numbers
        if not console.is_terminal and (now - printed > 10 or last_step):
            printed = now
            left = (total - done) / rate
            say(f"{what}: {done}/{total}, {rate:.1f}/s, {left:.0f} s left")

    with bar:
        yield report
