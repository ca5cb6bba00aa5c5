"""Invents the catalogue: styles, artists, albums and tracks, with their names and attributes.

Conventions: an attribute is a number in (0, 1), uniform over the catalogue; `ATTRIBUTES` names the
columns. Each is the normal distribution function of style + artist + track, so that styles hold
`STYLE_SHARE` of the variance, artists within a style `ARTIST_SHARE`, and the tracks of one artist
the rest. Attributes with few audible values (`LEVELS`) are rounded to them, so that nothing in an
attribute is beyond hearing. `compose` turns the attributes of a track into `Music`.

A key is drawn for each track (`keys` "any"), or each style has its own ("style"), a fifth from one
to the next, so that twelve styles share none; covers and remixes keep the original's. All else is
the same in both.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from cbmr.sources.demo.names import ARTIST_FORMS, TITLE_FORMS, make_name, make_title, unique_names
from cbmr.sources.demo.score import METRES, MODES, Music, Sound

ATTRIBUTES = (
    "tempo",
    "notes_per_beat",
    "note_length",
    "tremolo",
    "syncopation",
    "drum_density",
    "drum_level",
    "metre",
    "brightness",
    "distortion",
    "reverberation",
    "register",
    "mode",
    "chord_notes",
)
LEVELS = {"notes_per_beat": 4, "metre": 3, "mode": 6, "chord_notes": 3}
KEYS = ("any", "style")
FIFTH = 7  # semitones
STYLE_SHARE = 0.40
ARTIST_SHARE = 0.14

PROGRESSIONS = (
    (0, 3, 4, 0),
    (0, 5, 3, 4),
    (0, 4, 5, 3),
    (5, 3, 0, 4),
    (0, 6, 5, 4),
    (1, 4, 0, 0),
    (0, 2, 3, 4),
    (0, 0, 3, 0, 4, 3, 0, 4),
    (0, 1, 0, 6),
    (3, 0, 4, 5),
)
FIGURES = ((0, 1, 2), (0, 2, 1, 2), (0, 1, 2, 1), (2, 1, 0), (0, 0, 2, 1), (0, 3, 1, 2, 4))


@dataclass(frozen=True)
class Track:
    """One track of the invented catalogue; `music` is all that its audio depends on."""

    track_id: str
    path: str  # relative to the folder of the world, "/" between parts
    title: str
    artist: str
    artist_number: int
    album: str
    style: str
    kind: str  # song, intro, outro, interlude, cover or remix
    split: str  # train, valid or test
    played: bool  # False: nobody has listened to it yet
    attributes: tuple[float, ...]
    music: Music


def make_catalogue(
    rng: np.random.Generator, tracks: int, artists: int, styles: int, keys: str
) -> list[Track]:
    """Invents `tracks` tracks by `artists` artists in `styles` styles, artist by artist."""
    # Styles are spread evenly over each attribute, so that few of them already cover it.
    spread = ndtri((np.arange(styles) + 0.5) / styles)
    style_part = np.stack([rng.permutation(spread) for _ in ATTRIBUTES], axis=1)
    style_names = unique_names(rng, ("{a}", "{a} {b}", "neo-{a}", "post-{a}"), styles)
    style_progressions = [rng.permutation(len(PROGRESSIONS))[:3] for _ in range(styles)]

    style_of = rng.permutation(np.arange(artists) % styles)
    artist_part = rng.standard_normal((artists, len(ATTRIBUTES)))
    artist_names = unique_names(rng, ARTIST_FORMS, artists)
    sounds = [_sound(rng) for _ in range(artists)]

    artist_of = _share_tracks(rng, tracks, artists)
    splits = _split(rng, artist_of, artists)
    unplayed = rng.permutation(np.flatnonzero(splits == "test"))[: max(1, tracks // 100)]

    made: list[Track] = []
    for artist in range(artists):
        style = int(style_of[artist])
        members = np.flatnonzero(artist_of == artist)
        for album, album_members in enumerate(_albums(rng, members)):
            album_name = make_name(rng, TITLE_FORMS)
            kinds = _kinds(rng, len(album_members))
            for track, kind in zip(album_members, kinds, strict=True):
                latent = STYLE_SHARE**0.5 * style_part[style]
                latent = latent + ARTIST_SHARE**0.5 * artist_part[artist]
                rest = (1 - STYLE_SHARE - ARTIST_SHARE) ** 0.5
                latent = latent + rest * rng.standard_normal(len(ATTRIBUTES))
                attributes = _audible(ndtr(latent), kind)
                progression = PROGRESSIONS[rng.choice(style_progressions[style])]
                # Drawn in both worlds, so that they differ in nothing else.
                drawn = int(rng.integers(12))
                music = compose(
                    attributes,
                    kind=kind,
                    key=FIFTH * style % 12 if keys == "style" else drawn,
                    progression=progression,
                    motif=tuple(int(step) for step in rng.choice([0, 1, 2, 2, 4, 4, 5, 7], 8)),
                    sound=sounds[artist],
                    seed=int(rng.integers(2**62)),
                )
                if kind in ("cover", "remix") and made:
                    music = _borrow(music, _original(rng, made, artist, kind))
                made.append(
                    Track(
                        track_id=f"t{track:05d}",
                        path=f"audio/artist{artist:04d}/album{album:02d}/t{track:05d}.mp3",
                        title=make_title(rng, kind),
                        artist=artist_names[artist],
                        artist_number=artist,
                        album=album_name,
                        style=style_names[style],
                        kind=kind,
                        split=str(splits[track]),
                        played=bool(track not in unplayed),
                        attributes=tuple(attributes.tolist()),
                        music=music,
                    )
                )
    return made


def compose(
    attributes: NDArray[np.float64],
    *,
    kind: str,
    key: int,
    progression: tuple[int, ...],
    motif: tuple[int, ...],
    sound: Sound,
    seed: int,
) -> Music:
    """Physical parameters of a track from its attributes [attributes] in (0, 1)."""
    value = dict(zip(ATTRIBUTES, attributes.tolist(), strict=True))
    level = {name: int(value[name] * count) for name, count in LEVELS.items()}
    return Music(
        kind=kind,
        tempo_bpm=66 * 2.6 ** value["tempo"],
        metre=tuple(METRES)[level["metre"]],
        notes_per_beat=(0.5, 1.0, 2.0, 3.0)[level["notes_per_beat"]],
        note_length=0.12 + 0.88 * value["note_length"],
        tremolo_hz=0.8 * 9 ** value["tremolo"],
        syncopation=value["syncopation"],
        drum_density=value["drum_density"],
        drum_level=0.25 + 1.0 * value["drum_level"],
        brightness=value["brightness"],
        distortion=0.3 * 20 ** value["distortion"],
        reverberation_s=0.12 * 16 ** value["reverberation"],
        register=-10 + 20 * value["register"],
        key=key,
        mode=tuple(MODES)[level["mode"]],
        chord_notes=3 + level["chord_notes"],
        progression=progression,
        motif=motif,
        sound=sound,
        seed=seed,
    )


def _audible(attributes: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Attributes as they will be heard: changed by the kind of track, rounded to their levels."""
    value = dict(zip(ATTRIBUTES, attributes.tolist(), strict=True))
    if kind in ("intro", "interlude"):
        value |= {"drum_density": 0.03, "drum_level": 0.03, "notes_per_beat": 0.1}
    if kind == "outro":
        value |= {"drum_density": 0.5 * value["drum_density"], "drum_level": 0.1}
    if kind == "remix":
        value |= {"tempo": 0.5 + 0.5 * value["tempo"], "metre": 0.1, "drum_level": 0.9}
    for name, count in LEVELS.items():
        value[name] = (int(value[name] * count) + 0.5) / count
    return np.array(list(value.values()))


def _borrow(music: Music, original: Music) -> Music:
    return replace(music, progression=original.progression, motif=original.motif, key=original.key)


def _original(rng: np.random.Generator, made: list[Track], artist: int, kind: str) -> Music:
    """What is covered or remixed: another artist's track, or one of the artist's own if any."""
    own = [track for track in made if track.artist_number == artist]
    others = [track for track in made if track.artist_number != artist]
    choices = (own if kind == "remix" else others) or made
    return choices[rng.integers(len(choices))].music


def _sound(rng: np.random.Generator) -> Sound:
    return Sound(
        odd_share=float(rng.uniform(0.4, 1.0)),
        peak_hz=float(700 * 4 ** rng.random()),
        attack_s=float(0.004 * 20 ** rng.random()),
        kick_hz=float(rng.uniform(42, 70)),
        snare_hz=float(rng.uniform(150, 260)),
        hat_decay_s=float(rng.uniform(0.03, 0.05)),
        room_seed=int(rng.integers(2**31)),
        figure=FIGURES[rng.integers(len(FIGURES))],
    )


def _share_tracks(rng: np.random.Generator, tracks: int, artists: int) -> NDArray[np.int64]:
    """Artist of each track [tracks]: two for everyone, the others by a skewed share."""
    share = rng.lognormal(0.0, 0.6, artists)
    others = rng.choice(artists, tracks - 2 * artists, p=share / share.sum())
    return np.sort(np.concatenate([np.repeat(np.arange(artists), 2), others]))


def _split(
    rng: np.random.Generator, artist_of: NDArray[np.int64], artists: int
) -> NDArray[np.str_]:
    """Split of each track [tracks]: 10 % valid, 20 % test, half of each by artists not in train."""
    tracks = len(artist_of)
    counts = np.bincount(artist_of, minlength=artists)
    splits = np.full(tracks, "train", dtype="<U5")
    newcomers = list(rng.permutation(artists))
    for name, share in (("test", 0.10), ("valid", 0.05)):
        missing = max(1, round(share * tracks))
        # The last artist taken may exceed the share, so among many a fitting one is preferred.
        while missing > 0:
            fitting = [artist for artist in newcomers if counts[artist] <= missing]
            artist = fitting[0] if fitting else min(newcomers, key=lambda a: counts[a])
            newcomers.remove(artist)
            splits[artist_of == artist] = name
            missing -= int(counts[artist])
    # Every known artist keeps one train track at least: the first one drawn is spared.
    known = rng.permutation(np.flatnonzero(splits == "train"))
    spared = np.unique(artist_of[known], return_index=True)[1]
    free = np.delete(known, spared)
    new_tests, new_valids = max(1, round(0.10 * tracks)), max(1, round(0.05 * tracks))
    splits[free[:new_tests]] = "test"
    splits[free[new_tests : new_tests + new_valids]] = "valid"
    return splits


def _albums(rng: np.random.Generator, members: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    size = int(rng.integers(4, 11))
    return [members[start : start + size] for start in range(0, len(members), size)]


def _kinds(rng: np.random.Generator, count: int) -> list[str]:
    """Kinds of an album's tracks, in order; only albums of four or more hold untypical ones."""
    kinds = ["song"] * count
    if count < 4:
        return kinds
    for place, kind in enumerate(("intro", "interlude", "cover", "remix")):
        if rng.random() < 0.25:
            kinds[place * (count - 1) // 4] = kind
    if rng.random() < 0.25:
        kinds[-1] = "outro"
    return kinds
