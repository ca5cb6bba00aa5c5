"""What a file's tags say of it, and where they say nothing, its name and its folders.

tinytag reads the tags: pure Python, so that a hostile file ends in an exception at worst. Two
things are read here: the frame in which taggers keep the MusicBrainz recording of an MP3 (`UFID`),
which it leaves out, and the length of an Ogg file, for which it reads the whole file (.1 s) and
which stands in the last page (Ogg, RFC 3533; the Vorbis I specification, 4.2.2; Opus, RFC 7845).
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tinytag import TinyTag

OGG = frozenset((".ogg", ".oga", ".opus"))
LONGEST_PAGE = 65_307
ID3_HEADER = 10
UFID_OWNER = b"http://musicbrainz.org\0"
MBID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NUMBERED = re.compile(r"(?:(?:cd|disc)?\s*\d{1,2}\s*[-.])?\s*\d{1,3}\s*[-._)\s]\s*(?=\D)", re.I)
DISC = re.compile(r"(cd|disc|disk)\s*\d+", re.I)


@dataclass(frozen=True)
class Tags:
    """Text is empty and `duration_s` None where unknown; `tagged` is False where the title is from
    the file's name. `mbid` is the MusicBrainz recording."""

    title: str
    artist: str
    album: str
    mbid: str
    isrc: str
    duration_s: float | None
    tagged: bool


def read_tags(path: Path, name: str) -> Tags:
    """The tags of the file at `path`, which is `name` in the music folder.

    By hand, without tags: `Miles Davis/Kind of Blue/01 - So What.flac` is "So What" by Miles Davis
    on Kind of Blue; `Kind of Blue/01 So What.flac` is on the same album, by nobody known; in
    `Miles Davis - So What.mp3` the dash parts artist and title.
    """
    title, artist, album = from_name(name)
    try:
        is_ogg = path.suffix.lower() in OGG
        tag = TinyTag.get(path, duration=not is_ogg)
        duration_s = _ogg_s(path) if is_ogg else tag.duration
        other = {key.lower().replace(" ", ""): values for key, values in tag.other.items()}
        mbid = _clean(other.get("musicbrainz_trackid", other.get("musicbrainztrackid")))
        mbid = (mbid or _ufid(path)).lower()
    # A damaged file can raise anything; whether it decodes is for the scan to find out.
    except Exception:
        return Tags(title, artist, album, "", "", None, False)
    return Tags(
        title=_clean(tag.title) or title,
        artist=_clean(tag.artist) or _clean(tag.albumartist) or artist,
        album=_clean(tag.album) or album,
        mbid=mbid if MBID.fullmatch(mbid) else "",
        isrc=_clean(other.get("isrc")).upper().replace("-", ""),
        duration_s=duration_s if duration_s and duration_s > 0 else None,
        tagged=bool(_clean(tag.title)),
    )


def from_name(name: str) -> tuple[str, str, str]:
    """Title, artist and album as a path says them; empty where it does not.

    Only with two folders, not counting those of discs, is the upper one the artist's: deeper trees
    are sorted by anything, and their albums go by two names, as a "music" may be in many folders.
    """
    path = PurePosixPath(name)
    folders = [part for part in path.parts[:-1] if not DISC.fullmatch(part.strip())]
    stem = path.stem.strip()
    title = NUMBERED.sub("", stem, count=1) if NUMBERED.match(stem) else stem
    artist = folders[0] if len(folders) == 2 else ""
    album = " / ".join(folders[-2:] if len(folders) > 2 else folders[-1:])
    if not artist and " - " in title:
        artist, title = title.split(" - ", 1)
    return _clean(title.replace("_", " ")), _clean(artist), _clean(album)


def _clean(text: str | list[str] | None) -> str:
    """One line of it, or of the first of several."""
    first = (text[0] if text else "") if isinstance(text, list) else text or ""
    return " ".join(str(first).replace("\0", " ").split())


def _ufid(path: Path) -> str:
    """The MusicBrainz recording in an ID3v2 header's `UFID` frame, else nothing.

    The owner's address, a zero byte, the id in ASCII; the header's length is four bytes of 7 bits.
    """
    with path.open("rb") as file:
        header = file.read(ID3_HEADER)
        if header[:3] != b"ID3" or len(header) < ID3_HEADER:
            return ""
        length = 0
        for byte in header[6:]:
            length = length << 7 | byte & 0x7F
        _, found, after = file.read(length).partition(UFID_OWNER)
    return after[:36].decode("ascii", errors="replace") if found else ""


def _ogg_s(path: Path) -> float | None:
    """Seconds by the last page's number of samples and the first page's sample rate; None where
    either is not there."""
    with path.open("rb") as file:
        first = file.read(64)
        file.seek(max(0, path.stat().st_size - LONGEST_PAGE))
        end = file.read()
    at = end.rfind(b"OggS")
    if at < 0 or len(end) < at + 14:
        return None
    samples = struct.unpack_from("<q", end, at + 6)[0]
    if b"OpusHead" in first:
        return samples / 48_000
    header = first.find(b"\x01vorbis")
    rate = struct.unpack_from("<I", first, header + 12)[0] if header >= 0 else 0
    return samples / rate if rate else None
