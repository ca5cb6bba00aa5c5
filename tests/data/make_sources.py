"""Tiny data in exactly the format of each source: `python -m tests.data.make_sources FOLDER`.

Every value is made up here; nothing is copied from a source. What the adapters have to make of it
is worked by hand in `tests/sources`.
"""

import bz2
import json
import struct
import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import polars as pl

SO_WHAT_MBID = "11111111-2222-3333-4444-555555555555"
FREDDIE_MBID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"


def write_all(folder: Path) -> None:
    """Every source, each in a folder of its name."""
    for source, write in WRITERS.items():
        write(folder / source)


# --- a folder of music --------------------------------------------------------------------------


def write_audio(
    path: Path, codec: str = "pcm_s16le", *, hz: float = 440, tags: dict[str, str] | None = None
) -> Path:
    """Two seconds of a tone, mono, tagged by FFmpeg as the format has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 48_000 if codec == "libopus" else 22_050
    options = {"id3v2_version": "0"} if codec == "libmp3lame" and not tags else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        target = container if path.suffix not in (".ogg", ".opus") else stream
        target.metadata.update(tags or {})
        sine = 0.3 * np.sin(2 * np.pi * hz * np.arange(2 * rate) / rate)
        frame = av.AudioFrame.from_ndarray(
            (sine * 32_767).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.format.name, rate=rate, frame_size=stream.frame_size or None
        )
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return path


def id3(frames: dict[str, bytes]) -> bytes:
    """An ID3v2.3 tag: ten bytes, the length in four of 7 bits, then frames of id, length, flags."""
    body = b"".join(
        name.encode() + struct.pack(">I", len(content)) + b"\0\0" + content
        for name, content in frames.items()
    )
    length = bytes(len(body) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + length + body


def latin(text: str) -> bytes:
    """A text frame's content: the encoding, then the text."""
    return b"\0" + text.encode("latin-1")


def write_folder(folder: Path) -> None:
    """Six files of four formats, one without tags; and exports beside them, in `exports`."""
    music = folder / "music"
    blue = music / "Miles Davis/Kind of Blue"
    tags = {"artist": "Miles Davis", "album": "Kind of Blue"}
    write_audio(
        blue / "01 - So What.flac", "flac", hz=220,
        tags={**tags, "title": "So What", "MUSICBRAINZ_TRACKID": SO_WHAT_MBID,
              "ISRC": "US-SM1-59-00113"},
    )  # fmt: skip
    mp3 = write_audio(blue / "02 - Freddie.mp3", "libmp3lame", hz=330)
    mp3.write_bytes(
        id3(
            {
                "TIT2": latin("Freddie Freeloader"),
                "TPE1": latin("Miles Davis"),
                "TALB": latin("Kind of Blue"),
                "UFID": b"http://musicbrainz.org\0" + FREDDIE_MBID.encode(),
            }
        )
        + mp3.read_bytes()
    )
    write_audio(blue / "03 - Blue in Green.wav", hz=440)
    write_audio(
        blue / "04 - All Blues.opus", "libopus", hz=550, tags={**tags, "title": "All Blues"}
    )
    write_audio(
        music / "Beyoncé/Lemonade/Déjà Vu.m4a", "aac", hz=660,
        tags={"artist": "Beyoncé", "album": "Lemonade", "title": "Déjà Vu"},
    )  # fmt: skip
    write_audio(music / "夜/夜の歌.flac", "flac", hz=770, tags={"artist": "夜", "title": "夜の歌"})
    exports = folder / "exports"
    exports.mkdir()
    (exports / "mine.csv").write_text(MINE)


MINE = """path,artist,title,count,rating,time,played_ratio
,Miles Davis,So What,,5,,
,miles davis,Blue in Green,7,4,,
,Miles Davis,Freddie Freeloader,,1,,
,Miles Davis,All Blues,,3,,
,BEYONCE,Deja vu!,,1,,
夜/夜の歌.flac,,,2,,,
,Nobody,Nothing,3,,,
,Miles Davis,So What,,,2024-05-31 20:00,1.0
,Miles Davis,All Blues,,,2024-05-31 20:10,0.95
,Beyoncé,Déjà Vu,,,2024-05-31 20:20,0.1
,Miles Davis,All Blues,,,2024-05-31 23:00,0.6
"""


def listenbrainz(time: int | None, artist: str, title: str, **info: str) -> dict[str, object]:
    """A listen as ListenBrainz exports it."""
    return {
        "inserted_at": 1_717_200_000,
        "listened_at": time,
        "recording_msid": "00000000-0000-0000-0000-000000000000",
        "track_metadata": {
            "artist_name": artist,
            "track_name": title,
            "release_name": None,
            "additional_info": info,
            "mbid_mapping": None,
        },
    }


def write_listenbrainz(file: Path) -> Path:
    """An export of ListenBrainz: two months of listens, a love and a hate."""
    may = [
        listenbrainz(1_717_185_600, "M. Davis", "so what", recording_mbid=SO_WHAT_MBID),
        listenbrainz(1_717_186_200, "BEYONCÉ", "Deja Vu"),
        listenbrainz(1_717_186_800, "Nobody", "Nothing"),
    ]
    june = [listenbrainz(1_719_000_000, "Miles Davis", "So What")]
    feedback = [
        {"recording_mbid": SO_WHAT_MBID, "score": 1, "created": 1, "track_metadata": None},
        {"recording_mbid": FREDDIE_MBID, "score": -1, "created": 2, "track_metadata": None},
    ]

    def lines(records: list[dict[str, object]]) -> str:
        return "".join(json.dumps(record) + "\n" for record in records)

    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("user.json", json.dumps({"user_id": 1, "username": "me"}))
        archive.writestr("listens/2024/5.jsonl", lines(may))
        archive.writestr("listens/2024/6.jsonl", lines(june))
        archive.writestr("feedback.jsonl", lines(feedback))
        archive.writestr("pinned_recording.jsonl", lines([{"blurb_content": "!"}]))
    return file


# --- data sets ----------------------------------------------------------------------------------


def write_yambda(folder: Path) -> None:
    """Two listeners, items 10 to 14, of which 14 has no vector; and item 9, which nobody played."""
    flat = folder / "flat/50m"
    flat.mkdir(parents=True)
    event = {
        "uid": pl.UInt32, "item_id": pl.UInt32, "timestamp": pl.UInt32, "is_organic": pl.UInt8,
    }  # fmt: skip
    listen = {**event, "played_ratio_pct": pl.UInt16, "track_length_seconds": pl.UInt32}
    pl.DataFrame(
        [(1, 10, 100, 1, 100, 180), (1, 10, 200, 1, 60, 180), (1, 11, 300, 0, 80, 200),
         (1, 12, 400, 1, 49, 90), (1, 13, 500, 1, 120, 240),
         (2, 10, 100, 0, 100, 180), (2, 11, 200, 1, 50, 200), (2, 14, 300, 0, 90, 60)],
        listen, orient="row",
    ).write_parquet(flat / "listens.parquet")  # fmt: skip
    events = {
        "likes": [(1, 11, 305, 0), (1, 13, 505, 1), (2, 13, 150, 0), (2, 14, 305, 0),
                  (2, 11, 600, 0)],
        "unlikes": [(2, 11, 600, 0)],
        "dislikes": [(1, 12, 450, 0), (2, 10, 700, 0)],
        "undislikes": [(2, 10, 800, 0)],
    }  # fmt: skip
    for name, rows in events.items():
        pl.DataFrame(rows, event, orient="row").write_parquet(flat / f"{name}.parquet")
    items = [13, 9, 10, 11, 12]
    vectors = [[float(item), 1.0, 0.5, -1.0] for item in items]
    pl.DataFrame(
        {"item_id": items, "embed": vectors, "normalized_embed": vectors},
        {
            "item_id": pl.UInt32,
            "embed": pl.List(pl.Float64),
            "normalized_embed": pl.List(pl.Float64),
        },
    ).write_parquet(folder / "embeddings.parquet")
    pl.DataFrame(
        {"artist_id": [7, 8, 7, 9], "item_id": [10, 11, 11, 13]},
        {"artist_id": pl.UInt32, "item_id": pl.UInt32},
    ).write_parquet(folder / "artist_item_mapping.parquet")


def song(number: int) -> str:
    return f"SO{number:016d}"


def echo_track(letter: str) -> str:
    return f"TR{letter * 16}"


def write_taste_profile(folder: Path) -> None:
    """Song 1 has tracks B and A, song 2 a mismatched one alone, song 3 a mismatched and another,
    and song 4 none."""
    folder.mkdir(parents=True, exist_ok=True)
    one, two = "a" * 40, "b" * 40
    rows = [(one, 1, 3), (one, 2, 5), (two, 3, 1), (two, 4, 2), (two, 1, 1)]
    (folder / "train_triplets.txt").write_text(
        "".join(f"{user}\t{song(number)}\t{count}\n" for user, number, count in rows)
    )
    tracks = [("B", 1, "Ann", "One"), ("A", 1, "Ann", "One"), ("C", 2, "Bob", "Two"),
              ("D", 3, "Ünal", "夜"), ("E", 3, "Ünal", "夜")]  # fmt: skip
    (folder / "unique_tracks.txt").write_text(
        "".join(
            f"{echo_track(letter)}<SEP>{song(number)}<SEP>{artist}<SEP>{title}\n"
            for letter, number, artist, title in tracks
        ),
        encoding="utf-8",
    )
    (folder / "sid_mismatches.txt").write_text(
        "".join(
            f"ERROR: <{song(number)} {echo_track(letter)}> Ann  -  One  !=  Else  -  Other\n"
            for number, letter in ((2, "C"), (3, "D"))
        )
    )


def write_lastfm2k(folder: Path) -> None:
    """Two artists, one of them with an accent in Latin-1."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "artists.dat").write_bytes(
        "id\tname\turl\tpictureURL\n1\tMalaya\thttp://x\thttp://y\n52\tBeyoncé\thttp://x\t\n".encode(
            "latin-1"
        )
    )
    (folder / "user_artists.dat").write_text(
        "userID\tartistID\tweight\n2\t52\t11690\n2\t1\t3\n3\t52\t1\n"
    )


def write_music4all(folder: Path) -> None:
    """Two tracks; three listens in two sessions, one of a track without information; and Onion's
    counts."""
    (folder / "audios").mkdir(parents=True)
    first, second = "0009fFIM1eYThaPg", "ABCdefGHIjklMNOp"
    (folder / "id_information.csv").write_text(
        "id\tartist\tsong\talbum_name\n"
        f'{second}\tÜnal\t夜 "live"\tNights\n{first}\tAnn\tOne\tFirst\n',
        encoding="utf-8",
    )
    (folder / "id_metadata.csv").write_text(
        "id\tspotify_id\tpopularity\trelease\tduration_ms\n"
        f"{first}\tx\t55.0\t2004\t201000\n{second}\ty\t1.0\t2011\t90500\n"
    )
    (folder / "id_genres.csv").write_text(f"id\tgenres\n{first}\tjazz,bop\n{second}\tfolk\n")
    (folder / "listening_history.csv").write_text(
        "user\tsong\ttimestamp\n"
        f"user_a\t{first}\t2019-01-02 10:00\nuser_a\t{second}\t2019-01-02 10:29\n"
        f"user_a\tUNKNOWNunknownXX\t2019-01-02 10:58\nuser_a\t{first}\t2019-01-02 11:28\n"
        f"user_b\t{first}\t2019-01-02 10:00\n"
    )
    with bz2.open(folder / "userid_trackid_count.tsv.bz2", "wt") as file:
        file.write(
            f"user_id\ttrack_id\tcount\n1\t{first}\t4\n1\tUNKNOWNunknownXX\t9\n2\t{second}\t1\n"
        )


FMA_HEADER = """,album,album,artist,set,set,track,track,track,track
,id,title,name,split,subset,duration,genre_top,listens,title
track_id,,,,,,,,,
"""


def write_fma(folder: Path) -> None:
    """Three tracks, of which one is of the medium subset; a title with a comma and a line break."""
    (folder / "fma_metadata").mkdir(parents=True)
    (folder / "fma_small/000").mkdir(parents=True)
    (folder / "fma_metadata/tracks.csv").write_text(
        FMA_HEADER
        + '2,1,"AWOL, a way",AWOL,training,small,168,Hip-Hop,1293,"Food\nfight"\n'
        + "5,1,AWOL - A Way Of Life,AWOL,validation,medium,206,,1151,This World\n"
        + "10140,4,Ärger,夜,test,small,30,Rock,3,Last\n",
        encoding="utf-8",
    )


WRITERS = {
    "folder": write_folder,
    "yambda": write_yambda,
    "taste_profile": write_taste_profile,
    "lastfm2k": write_lastfm2k,
    "music4all": write_music4all,
    "music4all_onion": write_music4all,
    "fma": write_fma,
}

if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
