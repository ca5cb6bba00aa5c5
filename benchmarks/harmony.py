"""Do pitch filters hear that there is pitch, or which one? `python -m benchmarks.harmony [FOLDER]`
(default `runs/harmony`).

Dieleman (2014) finds filters that follow pitches and chords. Either they tell harmonic sound from
other sound, whatever its pitch; or genres keep to keys and chords, and these tell the genre. Two
demo worlds differ in nothing but keys: one draws the key of each track, in the other each style has
its own. Stage 1 is trained on both from five seeds, at the size of `benchmarks.results` by the
article's objective; beside it stands the same network as training found it. Test tracks are then
rendered anew up to six semitones higher and lower, transposed in the score, so that instruments,
drums and room stay, and each layer is asked:

- its likeness: the cosine between what it says of a piece (standardised by unit, over all) and of
  its transposition; 1 is no change, about 0 another piece;
- whether it tells the key: the accuracy of a linear probe on artists that the probe has not heard.
  Every piece is heard in all twelve keys, so that nothing but the key helps; a twelfth is chance.

Of the output itself: how far it turns from the own style when a piece leaves its key, and to
another style when the piece comes into that style's. Intervals are of 95 %, from draws of seeds and
of pieces, the same in both worlds; of other worlds they do not speak. All of it is simulated. What
is done is kept. The tables go to RESULTS.md, the picture beside this file.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import polars as pl
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import GroupKFold

from benchmarks.probe import FOLDS, rotated, untrained
from benchmarks.results import HERE, compose_and_run, read_settings, write_between
from cbmr.encoder import Encoder, load_encoder
from cbmr.factors import load_factors, unit_rows, unit_targets
from cbmr.files import read_arrays, whole_file, write_arrays
from cbmr.sources.demo import make_demo
from cbmr.sources.demo.catalogue import KEYS, Track, make_catalogue
from cbmr.sources.demo.music import render, write_mp3
from cbmr.spectrograms import read_logmels
from tasks import factorize, regress
from tasks.command import CONF
from tasks.evaluate import SIMULATED
from tasks.terminal import say

SEEDS, PIECES, DRAWS = 5, 20, 1_000
WORLD = 0
MUSIC: dict[str, Any] = {"tracks": 360, "artists": 48, "styles": 8}
DURATION_S = 10.0
TRAINING = ("loss=mse", "learning_rate=0.1", "epochs=20", "crop_s=8")
SEMITONES = range(-6, 7)
HOME = SEMITONES.index(0)
WEIGHTS = ("trained", "untrained")
BEGIN, END = "<!-- harmony -->", "<!-- end of harmony -->"
PICTURE = HERE / "harmony.png"
ALPHAS = (1e-3, 1e-2, 1e-1, 1.0)
CURVES = {
    ("any", "trained"): ("#0072b2", "o-", "any key, trained"),
    ("style", "trained"): ("#d55e00", "s-", "key by style, trained"),
    ("any", "untrained"): ("#6b6b6b", "o:", "any key, untrained"),
    ("style", "untrained"): ("#6b6b6b", "s--", "key by style, untrained"),
}

Told = dict[tuple[str, str, str, str], list[np.ndarray]]
"""A measure, the keys of the world, the weights, the layer: a seed each, `[pieces]` values or
`[pieces, semitones]` curves."""


def main() -> None:
    """Train what is missing, ask every layer, write the table and the picture."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/harmony")
    told: Told = defaultdict(list)
    with hydra.initialize_config_dir(CONF, version_base=None):
        for seed in range(SEEDS):
            for keys in KEYS:
                _ask(folder, seed, keys, told)
                say(f"seed {seed + 1} of {SEEDS}, keys={keys}: done")
    layers = list(dict.fromkeys(layer for measure, *_, layer in told if measure == "likeness"))
    text = "\n".join(_markdown(told, layers))
    write_between(BEGIN, END, text)
    _draw(told, layers)
    print(text)


# --- worlds, trainings and what they hear -------------------------------------------------------


def _ask(folder: Path, seed: int, keys: str, told: Told) -> None:
    """Everything that is asked of one training, appended to `told`."""
    corpus, run = folder / keys, folder / f"{keys}-run{seed}"
    make_demo(corpus, workers=1, rng_seed=WORLD, keys=keys, duration_s=DURATION_S, **MUSIC)
    if not run.exists():
        run.mkdir(parents=True)
        (folder / f"{keys}-spectrograms").mkdir(exist_ok=True)
        (run / "spectrograms").symlink_to(f"../{keys}-spectrograms")
    small = read_settings(HERE / "results.yaml")["encoder"]
    where = [f"corpus='{corpus}'", f"run='{run}'", "workers=1", f"rng_seed={seed}"]
    compose_and_run(factorize, where)
    compose_and_run(regress, [*where, *small, *TRAINING])
    encoder = load_encoder(run / "regress" / "encoder.pt")
    # The worlds' own catalogues, from their first stream of chance.
    songs = {
        name: [track for track in make_catalogue(np.random.default_rng([WORLD, 0]), **MUSIC,
                                                 keys=name) if track.kind == "song"]
        for name in KEYS
    }  # fmt: skip
    key_of = {track.style: track.music.key for track in songs["style"]}
    pieces = [track for track in songs[keys] if track.split == "test"]
    pieces = [pieces[at] for at in np.linspace(0, len(pieces) - 1, PIECES).astype(int)]
    heard = _heard(folder / f"{keys}-transposed.npz", pieces, encoder)
    styles = _styles(corpus, run)
    for weights, network in zip(WEIGHTS, (encoder, untrained(encoder, seed)), strict=True):
        said = _activations(network, heard)
        for layer, activations in said.items():
            place = (keys, weights, layer)
            told["likeness", *place].append(likeness(activations))
            told["key", *place].append(key_told(activations, pieces))
        left, came = by_style(said["output"], pieces, styles, key_of)
        told["left", keys, weights, "output"].append(left)
        told["came", keys, weights, "output"].append(came)


def _heard(path: Path, pieces: Sequence[Track], encoder: Encoder) -> np.ndarray:
    """Log-mels float16 `[pieces, semitones, mels, frames]`, by the road that training's went: MP3
    and its decoder."""
    assert encoder.mel_spec is not None
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "piece.mp3"
            heard = []
            for piece in pieces:
                for semitones in SEMITONES:
                    music = replace(piece.music, transposed=semitones)
                    write_mp3(file, render(music, DURATION_S), {})
                    heard.append(read_logmels(file, encoder.mel_spec, DURATION_S, 1)[0][0])
        shape = (len(pieces), len(SEMITONES), *heard[0].shape)
        write_arrays(path, heard=np.array(heard, dtype=np.float16).reshape(shape))
    return read_arrays(path, "heard")[0]


def _styles(corpus: Path, run: Path) -> dict[str, np.ndarray]:
    """The direction of each style: its training tracks' mean target less that of all, unit norm."""
    tracks = pl.read_parquet(corpus / "tracks.parquet")
    targets = unit_targets(load_factors(run / "factors.npz"), tracks["track_id"].to_numpy())
    trained = ~np.isnan(targets).any(axis=1) & (tracks["split"].to_numpy() == "train")
    style = tracks["style"].to_numpy()
    middle = targets[trained].mean(axis=0)
    return {
        name: unit_rows((targets[trained & (style == name)].mean(axis=0) - middle)[None])[0]
        for name in np.unique(style)
    }


@torch.no_grad()
def _activations(encoder: Encoder, heard: np.ndarray) -> dict[str, np.ndarray]:
    """What each layer says `[pieces, semitones, units]`; of a layer over time, the mean and the
    maximum of each unit."""
    said: dict[str, list[torch.Tensor]] = defaultdict(list)

    def listen(layer: str) -> Any:
        def hook(_: Any, __: Any, out: torch.Tensor) -> None:
            pooled = torch.cat([out.mean(dim=2), out.amax(dim=2)], 1) if out.ndim == 3 else out
            said[layer].append(pooled)

        return hook

    hooks = [
        module.register_forward_hook(listen(layer))
        for layer, module in encoder.network.layers().items()
    ]
    for piece in heard:
        logmel = torch.from_numpy(piece)
        encoder.eval().predict(logmel, torch.full((len(piece),), piece.shape[2]))
    for hook in hooks:
        hook.remove()
    return {layer: torch.stack(of).numpy() for layer, of in said.items()}


# --- what is asked ------------------------------------------------------------------------------


def likeness(activations: np.ndarray) -> np.ndarray:
    """Cosine of each piece to its transpositions, `[pieces, semitones]`."""
    spread = np.maximum(activations.std(axis=(0, 1)), 1e-6)  # a dead unit says nothing
    scaled = (activations - activations.mean(axis=(0, 1))) / spread
    unit = scaled / np.maximum(np.linalg.norm(scaled, axis=2, keepdims=True), 1e-12)
    alike: np.ndarray = np.einsum("psu,pu->ps", unit, unit[:, HOME])
    return alike


def key_told(activations: np.ndarray, pieces: Sequence[Track]) -> np.ndarray:
    """Accuracy `[pieces]` of a linear probe for the key, each piece being heard in all twelve."""
    inputs = rotated(activations[:, :12].reshape(12 * len(pieces), -1))
    known = np.array([_key(piece, semitones) for piece in pieces for semitones in SEMITONES[:12]])
    artists = np.repeat([piece.artist_number for piece in pieces], 12)
    foretold = np.empty_like(known)
    for train, asked in GroupKFold(FOLDS).split(inputs, known, artists):
        probe = RidgeClassifierCV(ALPHAS).fit(inputs[train], known[train])
        foretold[asked] = probe.predict(inputs[asked])
    return (foretold == known).reshape(len(pieces), 12).mean(axis=1)


def by_style(
    output: np.ndarray,
    pieces: Sequence[Track],
    styles: Mapping[str, np.ndarray],
    key_of: Mapping[str, int],
) -> tuple[np.ndarray, np.ndarray]:
    """By how much a piece's cosine to its own style changes when it leaves its key, and its cosine
    to other styles, each in that style's key less the mean of the keys that are neither's; both
    `[pieces]`."""
    unit = output - output[:, HOME].mean(axis=0)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=2, keepdims=True), 1e-12)
    away = [at for at in range(12) if at != HOME]
    left, came = [], []
    for piece, of_piece in zip(pieces, unit, strict=True):
        own = of_piece @ styles[piece.style]
        left.append(own[away].mean() - own[HOME])
        nearer = []
        for name, direction in styles.items():
            there = [at for at in away if _key(piece, SEMITONES[at]) == key_of[name]]
            if name != piece.style and there:
                near = of_piece[:12] @ direction
                nearer.append(
                    near[there].mean() - near[[at for at in away if at not in there]].mean()
                )
        came.append(np.mean(nearer))
    return np.array(left), np.array(came)


def _key(piece: Track, semitones: int) -> int:
    return (piece.music.key + semitones) % 12


# --- what is said -------------------------------------------------------------------------------


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean of `[seeds, pieces, ...]` and its interval, seeds and pieces drawn again."""
    rng = np.random.default_rng(0)
    seeds, pieces = values.shape[:2]
    draws = [
        values[rng.integers(seeds, size=seeds)][:, rng.integers(pieces, size=pieces)].mean((0, 1))
        for _ in range(DRAWS)
    ]
    return values.mean(axis=(0, 1)), *np.quantile(draws, [0.025, 0.975], axis=0)


def _markdown(told: Told, layers: Sequence[str]) -> list[str]:
    lines = [
        f"{SIMULATED} Two worlds of {MUSIC['tracks']} tracks of {DURATION_S:g} s in "
        f"{MUSIC['styles']} styles, {SEEDS} trainings on each, {PIECES} test tracks transposed; "
        f"95 % intervals of {DRAWS:,} draws of trainings and tracks. *Learned* is trained less "
        "untrained; the last column, how much more of it there is where styles have keys: that "
        "alone speaks for the chords of a genre.",
    ]
    heads = {"likeness": "Likeness to transpositions by one to six semitones either way",
             "key": "Accuracy at telling the key, one of twelve (by chance .083)"}  # fmt: skip
    for measure, head in heads.items():
        lines += [
            "", f"{head}:", "",
            "| layer | any key: untrained | trained | learned | key by style: untrained | trained "
            "| learned | by style, less any |",
            f"|---|{'---|' * 7}",
        ]  # fmt: skip
        for layer in layers:
            value = {
                (keys, weights): _each(told, measure, keys, weights, layer)
                for keys in KEYS
                for weights in WEIGHTS
            }
            learned = {k: value[k, "trained"] - value[k, "untrained"] for k in KEYS}
            cells = [
                cell
                for keys in KEYS
                for cell in (
                    *(f"{np.mean(value[keys, weights]):.3f}" for weights in reversed(WEIGHTS)),
                    _signed(learned[keys]),
                )
            ]
            cells.append(_signed(learned["style"] - learned["any"]))
            lines.append(f"| {layer} | {' | '.join(cells)} |")
    lines += [
        "", "What the output makes of it, trained:", "",
        "| the output's cosine | any key | key by style | by style, less any |",
        "|---|---|---|---|",
    ]  # fmt: skip
    names = {"left": "to its own style, out of its key", "came": "to another style, in that one's"}
    for measure, name in names.items():
        by = {keys: _each(told, measure, keys, "trained", "output") for keys in KEYS}
        cells = [_signed(of) for of in (by["any"], by["style"], by["style"] - by["any"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _each(told: Told, measure: str, keys: str, weights: str, layer: str) -> np.ndarray:
    """Values `[seeds, pieces]`; of curves, the means of all transpositions."""
    values = np.array(told[measure, keys, weights, layer])
    return values if values.ndim == 2 else np.delete(values, HOME, axis=2).mean(axis=2)


def _signed(values: np.ndarray) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*(float(number) for number in _interval(values)))


def _draw(told: Told, layers: Sequence[str]) -> None:
    """A panel a layer: likeness by semitones, of both worlds, trained and not."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(
        2, 4, figsize=(12, 6.4), sharex=True, sharey=True, layout="constrained"
    )
    for panel, layer in zip(panels.flat, layers, strict=True):
        for (keys, weights), (colour, style, name) in CURVES.items():
            value, low, high = _interval(np.array(told["likeness", keys, weights, layer]))
            panel.plot(SEMITONES, value, style, color=colour, label=name, markersize=4)
            panel.fill_between(SEMITONES, low, high, color=colour, alpha=0.15, linewidth=0)
        panel.set_title(layer, fontsize=11)
        panel.set_xticks(SEMITONES[::3])
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[-1]:
        panel.set_xlabel("semitones", fontsize=11)
    figure.supylabel("likeness to the piece in its key", fontsize=11)
    figure.suptitle(
        "What transposition changes, in two simulated worlds, five trainings each, 95 % intervals"
    )
    handles, names = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    with whole_file(PICTURE) as file:
        figure.savefig(file, format="png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
