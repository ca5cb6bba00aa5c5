"""The command line of every task: a small wrapper around `hydra.main`.

Free text (`seed=Beyoncé (live)`) needs no quotes but the shell's; a misspelt key is refused with
the nearest name; a value of the wrong type or out of range is refused before anything heavy is
imported; and whatever a person can mend ends in one line on standard error and status 1 (130 for
Ctrl-C), without a traceback.
"""

import difflib
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cbmr.errors import InputError
from tasks.runs import locked, share
from tasks.terminal import say

OmegaConf.register_new_resolver("cores", lambda: os.cpu_count() or 1, replace=True)
CONF = str(Path(__file__).resolve().parent.parent / "conf")
FREE_TEXT = {
    "audience", "audio", "corpus", "down", "encoder_file", "exclude", "forget", "list", "listener",
    "listens", "negative", "output", "path", "run", "seed", "song_column", "source", "station",
    "subset", "time_column", "title", "track", "up", "user", "user_column",
}  # fmt: skip
NULLABLE = {"audio", "encoder_file", "exclude", "listens", "negative", "output"}
"""Free text that null leaves out."""
LISTS = {"negative", "seed"}
WHOLE = {"max_per_album", "max_per_artist", "n"}
"""Whole numbers whose default, null, does not tell."""
ABOVE_ZERO = {
    "alpha", "artist_spacing", "batch_size", "bootstraps", "components", "crop_s", "draws",
    "embedding_size", "epochs", "eps", "excerpt_s", "excerpts", "fastest", "file_timeout_s",
    "hidden", "iterations", "k", "learning_rate", "listeners", "lookback", "margin",
    "max_duration_s", "max_per_album", "max_per_artist", "min_duration_s", "n",
    "negative_distance", "perplexity", "piece", "points", "rounds", "sample", "scale", "size",
    "slowest", "temperature", "total_duration_s", "words", "workers",
}  # fmt: skip
AT_LEAST_ZERO = {
    "anchor", "band_masks", "band_width", "completions", "exploration", "lists", "plays",
    "regularization", "rng_seed", "skips", "time_masks", "time_width", "triplets", "weight_decay",
    "worst",
}  # fmt: skip

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def command(
    name: str, run: Callable[[DictConfig], None], *, writes: bool = True, waits: bool = True
) -> None:
    """Run a task from the command line and end the process.

    `writes` tasks hold the run's lock: a second process on the same run waits and says so, or with
    `waits=False` ends at once, status 0, as jobs that a clock starts should not pile up.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed
    sys.argv[1:] = [_quoted(argument) for argument in sys.argv[1:]]
    statuses: list[int] = []
    defects: list[Exception] = []

    def job(cfg: DictConfig) -> None:
        if INTERRUPTED in statuses:
            return  # Ctrl-C is meant for a whole sweep
        hydra_cfg = HydraConfig.get()
        if hydra_cfg.mode == RunMode.MULTIRUN:
            shared = Path(cfg.run)
            cfg.run = _literal(f"{cfg.run}/{hydra_cfg.job.num}")
            share(shared, Path(cfg.run), name)
            say(f"{cfg.run}: {' '.join(hydra_cfg.overrides.task)}")
        try:
            statuses.append(_status(lambda: _checked_run(cfg, run, writes, waits)))
        except Exception as defect:  # Hydra would add a line of its own to the traceback
            defects.append(defect)

    outer = _status(lambda: _compose_and_call(name, job))
    if defects:
        raise defects[0]
    sys.stdout.flush()
    raise SystemExit(max([outer, *statuses]))


def defaults_of(task: str, cfg: DictConfig) -> DictConfig:
    """Another task's own defaults, with what all tasks share taken from `cfg`."""
    other = hydra.compose(task)
    for key in ("corpus", "run", "rng_seed", "workers", "holdout"):
        if key in cfg and key in other:
            other[key] = _literal(cfg[key]) if isinstance(cfg[key], str) else cfg[key]
    return other


def _compose_and_call(name: str, job: Callable[[DictConfig], None]) -> None:
    try:
        hydra.main(version_base=None, config_path=CONF, config_name=name)(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_explained(name, error)) from error


def _checked_run(
    cfg: DictConfig, run: Callable[[DictConfig], None], writes: bool, waits: bool
) -> None:
    overrides = [text.partition("=")[0] for text in HydraConfig.get().overrides.task]
    groups = [text for text in HydraConfig.get().overrides.task if _is_group(text)]
    added = [key for key in overrides if key.startswith(("+", "~"))]
    defaults = hydra.compose(HydraConfig.get().job.config_name or "", overrides=groups)
    if added:
        key = added[0].lstrip("+~")
        if key in _keys(defaults):
            raise InputError(f"{added[0]}: nothing is added or left out: expected {key}=VALUE")
        raise InputError(_unknown_key(key, defaults))
    check_settings(cfg, defaults)
    if writes:
        with locked(Path(cfg.run), waits=waits) as held:
            if held:
                run(cfg)
            else:
                say(f"{cfg.run} is in use by another process: nothing is done this time")
    else:
        run(cfg)


def check_settings(cfg: DictConfig, defaults: DictConfig, prefix: str = "") -> None:
    """InputError for a value missing, of another type than its default's, or out of range."""
    for key in map(str, cfg):
        name = f"{prefix}{key}"
        if OmegaConf.is_missing(cfg, key):
            raise InputError(f"{name}= is missing: expected {name}=VALUE on the command line")
        value = cfg[key]
        default = None if OmegaConf.is_missing(defaults, key) else defaults[key]
        if isinstance(value, DictConfig) and isinstance(default, DictConfig):
            check_settings(value, default, f"{name}.")
            continue
        expected = _expected(str(key), default, value)
        if expected:
            raise InputError(f"{name}={_shown(value)}: expected {expected}")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}={value}: expected a finite number")
        if isinstance(value, int | float) and not isinstance(value, bool) and value != default:
            if key in ABOVE_ZERO and not value > 0:
                raise InputError(f"{name}={value}: expected a number above 0")
            if key in AT_LEAST_ZERO and not value >= 0:
                raise InputError(f"{name}={value}: expected a number of at least 0")


def _expected(key: str, default: Any, value: Any) -> str:
    """What kind of value the default says there should be; empty when it is."""
    if default is None and value is not None and key in ABOVE_ZERO | AT_LEAST_ZERO:
        default = 1 if key in WHOLE else 1.0
    if default is None or type(value) is type(default):
        return ""
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float):
        return "" if isinstance(value, int) and not isinstance(value, bool) else "a number"
    if isinstance(default, str):
        return "text"
    return f"{OmegaConf.to_container(default)}, or as many values of that kind"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _status(action: Callable[[], None]) -> int:
    try:
        action()
    except InputError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        say(f"error: {where}{error.strerror}")
        return 1
    return 0


# --- what Hydra's grammar needs, and its messages in one line -----------------------------------


def _quoted(argument: str) -> str:
    """Free text in Hydra's single quotes, unless its author already brackets or quotes it."""
    key, equals, value = argument.partition("=")
    # A number as the choice of a group would be a defect to Hydra, quoted it is an unknown choice.
    is_text = key in FREE_TEXT or (_is_group(argument) and re.fullmatch(r"-?[\d.]+", value))
    if not equals or not is_text or value[:1] in ("", "{") or _is_quoted(value):
        return argument
    if value == "null" and key in NULLABLE:
        return argument
    if value[0] == "[" and value[-1] == "]":
        if key not in LISTS:
            return argument
        items = re.findall(
            r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]+)\s*(?:,|$)""", value[1:-1]
        )
        return f"{key}=[{','.join(_quotes(item.strip()) for item in items)}]"
    return f"{key}={_quotes(value)}"


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in "'\""


def _quotes(text: str) -> str:
    if _is_quoted(text):
        return text
    # Within quotes only a quote, the backslashes before one, and an interpolation are special.
    escaped = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", text)
    escaped = re.sub(r"(\\+)$", lambda found: found[1] * 2, escaped)
    return f"'{_literal(escaped)}'"


def _literal(text: str) -> str:
    """Text in which OmegaConf sees nothing to fill in."""
    return text.replace("${", r"\${")


def _is_group(override: str) -> bool:
    key = override.partition("=")[0]
    return (Path(CONF) / key).is_dir()


def _explained(name: str, error: Exception) -> str:
    text = str(error)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        with hydra.initialize_config_dir(CONF, version_base=None):
            return _unknown_key(unknown[1], hydra.compose(name))
    several = re.search(r"Ambiguous value for argument '([^'=]+)=([^']*)'", text)
    if several:
        key, values = several.groups()
        return f"{key}={values}: several values are typed as {key}=[{values}], a sweep with -m"
    choice = re.search(r"Could not find '([^'/]+)/([^']+)'", text)
    if choice and (Path(CONF) / choice[1]).is_dir():
        options = sorted(file.stem for file in (Path(CONF) / choice[1]).glob("*.yaml"))
        return f"{choice[1]}={choice[2]}: expected one of {', '.join(options)}"
    return " ".join(text.split())


def _unknown_key(key: str, config: DictConfig) -> str:
    known = _keys(config)
    near = difflib.get_close_matches(key, known, 1, cutoff=0.5)
    hint = f"; is {near[0]!r} meant?" if near else ""
    return f"{key!r} is no setting of this task{hint} (it has {', '.join(known)})"


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for key in map(str, config):
        value = None if OmegaConf.is_missing(config, key) else config[key]
        if isinstance(value, DictConfig):
            keys += _keys(value, f"{prefix}{key}.")
        else:
            keys.append(f"{prefix}{key}")
    return keys
