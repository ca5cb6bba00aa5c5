"""Invents names: words of syllables, in forms with what breaks careless programs, such as commas,
quotes, slashes and other scripts."""

import numpy as np

ONSETS = ["b", "br", "d", "dr", "f", "g", "gl", "h", "j", "k", "kl", "l", "m", "n", "p", "r", "s",
          "st", "t", "tr", "v", "w", "z"]  # fmt: skip
VOWELS = ["a", "a", "e", "e", "i", "i", "o", "o", "u", "ai", "ea", "ou", "é", "ö", "å", "í"]
CODAS = ["", "", "", "", "n", "r", "l", "s", "m", "nd", "th", "x"]
CHARACTERS = "青空夜雨月花風海星森光夢春雪音波東山川影"
ARTIST_FORMS = ("{a}", "{a} {b}", "{a} {b}", "The {a}s", "{a} & {b}", "{a}, {b} & {c}", "O'{a}",
                "{a} = {b}", "{z}", "DJ {a}", "{a} ({b})", "{a}/{b}")  # fmt: skip
TITLE_FORMS = ("{a}", "{a} {b}", "{a} {b} {c}", "{a} (Live)", "{a}'s {b}", "{a} & {b}", "{a} = {b}",
               "{z}", "{z} ({a})", "{a}, {b}", "{a}: {b}?", "No. {n}", "#{n} {a}", '"{a}" {b}',
               "{a} – {b}", "{a} [{n}]", "…{a}", "100% {a}")  # fmt: skip


def make_title(rng: np.random.Generator, kind: str) -> str:
    """A title; of a remix, a cover and an intro, half say so."""
    title = make_name(rng, TITLE_FORMS)
    suffixes = {"remix": " (Remix)", "cover": " [Cover]", "intro": " (Intro)"}
    return title + (suffixes.get(kind, "") if rng.random() < 0.5 else "")


def unique_names(rng: np.random.Generator, forms: tuple[str, ...], count: int) -> list[str]:
    """`count` names of these forms, each another."""
    names: list[str] = []
    while len(names) < count:
        name = make_name(rng, forms)
        if name not in names:
            names.append(name)
    return names


def make_name(rng: np.random.Generator, forms: tuple[str, ...]) -> str:
    """A name of one of the forms: `{a}` to `{c}` are words, `{z}` characters, `{n}` a number."""
    characters = "".join(rng.choice(list(CHARACTERS), rng.integers(2, 5)))
    words = {letter: _word(rng) for letter in "abc"}
    form = forms[rng.integers(len(forms))]
    return form.format(**words, z=characters, n=rng.integers(1, 200))


def _word(rng: np.random.Generator) -> str:
    syllables = [
        ONSETS[rng.integers(len(ONSETS))]
        + VOWELS[rng.integers(len(VOWELS))]
        + CODAS[rng.integers(len(CODAS))]
        for _ in range(rng.integers(1, 4))
    ]
    return "".join(syllables).capitalize()
