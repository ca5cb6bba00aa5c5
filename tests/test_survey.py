"""The survey as a person answers it: real processes, their answers through a pipe."""

import os
import re
import signal
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from filelock import FileLock

from cbmr.corpus import training_triplets
from cbmr.files import write_json
from cbmr.sources.tables import read_corpus
from cbmr.vectors import Vectors, save_vectors
from tests.conftest import make_tables

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path.cwd()), "COLUMNS": "200"}
PROMPT = "type 1, 2, 3, s to skip, u to take the last answer back or q to end\n"


@pytest.fixture
def corpus(tmp_path):
    """Tables alone, no sound: training tracks are t0 to t7."""
    (tmp_path / "corpus").mkdir()
    for name, table in make_tables().items():
        table.write_parquet(tmp_path / f"corpus/{name}.parquet")
    return tmp_path / "corpus"


def command(corpus, *words):
    return [sys.executable, "-m", "tasks.survey", f"corpus={corpus}",
            f"run={corpus.parent / 'run'}", *words]  # fmt: skip


def survey(corpus, typed, *words, status=0):
    """What was said, on standard error; standard output is empty."""
    result = subprocess.run(
        command(corpus, *words), env=ENVIRONMENT, input=typed.encode(), capture_output=True
    )
    said = result.stderr.decode()
    assert (result.returncode, result.stdout) == (status, b""), said
    assert "Traceback" not in said
    return said


def questions(said):
    """The tracks of each question, in the order shown."""
    shown = [f"t{number}" for number in re.findall(r"^     .*/audio/t(\d+)\.wav$", said, re.M)]
    return [tuple(shown[start : start + 3]) for start in range(0, len(shown), 3)]


def answers(corpus):
    return pl.read_csv(corpus / "triplets.csv", infer_schema=False).select("a", "b", "odd").rows()


def test_the_track_that_is_typed_is_the_odd_one(corpus):
    """The first, nonsense, the third, a skip, and the second: three answers, four questions."""
    said = survey(corpus, "1\n4\n 3 \nS\n2\n", "rounds=3")
    first, second, skipped, last = questions(said)
    assert answers(corpus) == [first[1:] + first[:1], second, (last[0], last[2], last[1])]
    assert len({frozenset(three) for three in (first, second, skipped, last)}) == 4
    assert "'4' is none of them" in said
    assert "artist 2 - 夜の歌\n" in said
    assert said.endswith(f"3 answered, 3 in all in {corpus / 'triplets.csv'}\n")
    kept = training_triplets(read_corpus(corpus, uses=["triplets"]))
    assert len(kept.odd) == 3


def test_an_answer_is_taken_back_and_asked_again(corpus):
    """Nothing to take back; an answer, taken back and given otherwise; a second one. Of an earlier
    survey nothing is taken back, and a column that an answer brought stays."""
    said = survey(corpus, "u\n1\nu\n2\n3\n", "rounds=2")
    assert said.count("nothing was answered since it began") == 1
    first, again, second, anew, last = questions(said)
    assert first == again == anew != second == last
    assert answers(corpus) == [(anew[0], anew[2], anew[1]), (last[0], last[1], last[2])]
    before = (corpus / "triplets.csv").read_bytes()
    said = survey(corpus, "1\nu\nu\nq\n")
    assert "nothing was answered since it began" in said
    assert (corpus / "triplets.csv").read_bytes() == before


def test_a_survey_goes_on_where_an_earlier_one_ended(corpus, tmp_path):
    """In one go or in two, by `q` or by an input that ends, the same is asked."""
    at_once = survey(corpus, "1\n2\n3\n1\n", "rounds=4")
    expected = answers(corpus)
    (corpus / "triplets.csv").unlink()
    before = survey(corpus, "1\n2\nq\n", "rounds=10")
    ended = survey(corpus, "3\n", "rounds=10")
    assert "standard input has ended" in ended
    assert "standard input has ended" not in before
    after = survey(corpus, "1", "rounds=1")
    asked = questions(before)[:2] + questions(ended)[:1] + questions(after)
    assert asked == questions(at_once)
    assert answers(corpus) == expected
    (corpus / "triplets.csv").unlink()
    assert questions(survey(corpus, "1\n2\n3\n1\n", "rounds=4", "rng_seed=1")) != asked


def test_what_was_answered_survives_a_kill(corpus):
    process = subprocess.Popen(
        command(corpus), env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        process.stdin.write(b"3\n1\n")
        process.stdin.flush()
        said = ""
        for line in process.stderr:
            said += line.decode()
            if said.count(PROMPT) == 3:  # the third question waits for its answer
                process.send_signal(signal.SIGKILL)
    first, second, _ = questions(said)
    assert answers(corpus) == [first, (*second[1:], second[0])]
    assert not list(corpus.glob("*.partial"))
    again = survey(corpus, "1\n", "rounds=1")
    assert frozenset(questions(again)[0]) not in {frozenset(first), frozenset(second)}
    assert len(answers(corpus)) == 3


def test_ctrl_c_ends_it_in_a_line(corpus):
    process = subprocess.Popen(
        command(corpus), env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        after = []
        for line in process.stderr:
            after.append(line.decode())
            if after[-1] == PROMPT:
                process.send_signal(signal.SIGINT)
                after.clear()
        assert after == ["interrupted; the same command goes on from here\n"]
    assert process.returncode == 130


def test_every_three_of_the_training_tracks_is_asked_once(corpus):
    split = ["train"] * 5 + ["valid"] * 5 + ["test"] * 4
    tracks = make_tables()["tracks"].with_columns(split=pl.Series(split))
    tracks.write_parquet(corpus / "tracks.parquet")
    said = survey(corpus, "1\n" * 6 + "s\n" + "1\n" * 20, "rounds=20")
    asked = sorted(tuple(sorted(three)) for three in questions(said))
    assert asked == [*combinations(["t0", "t1", "t2", "t3", "t4"], 3)]
    assert "every three of the 5 tracks has been asked\nsurvey: 9 answered" in said
    said = survey(corpus, "1\n", "rounds=1", "holdout=false")
    assert len(questions(said)) == 1


def test_questions_are_near_each_other_where_the_run_has_vectors(corpus):
    """t0 to t3 are within 30 degrees, t4 to t6 within 21 others, t7 has no vector: every three of
    the seven is asked."""
    angle = np.deg2rad([0, 9, 19, 30, 180, 190, 201])
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    # Held-out tracks have vectors, too, and are not asked about.
    ids = np.array([f"t{row}" for row in [*range(7), *range(8, 14)]])
    vectors = np.concatenate([vectors, np.tile(vectors[:1], (6, 1))])
    run = corpus.parent / "run"
    save_vectors(run / "regress/embeddings.npz", Vectors(ids, vectors))
    write_json(run / "regress/manifest.json", {})
    said = survey(corpus, "1\n" * 35, "rounds=50")
    assert f"using {run / 'regress'}" in said
    asked = [*map(frozenset, questions(said))]
    assert len(asked) == len({*asked}) == 35
    assert frozenset.union(*asked) == {f"t{row}" for row in range(7)}
    (run / "regress/manifest.json").unlink()
    (corpus / "triplets.csv").unlink()
    assert f"{run} has no vectors" in survey(corpus, "q\n")


def test_columns_and_rows_of_the_table_stay(corpus):
    """Ids keep their zeros, a comma its quotes, and what is not of cbmr stays where it is."""
    before = 'odd,a,b,user_id,mood\nt2,t0,t1,007,"glad, tired"\nt0,t1,elsewhere,,\n'
    (corpus / "triplets.csv").write_text(before)
    said = survey(corpus, "2\n", "rounds=1")
    assert "1 of 2 rows name unknown tracks" in said
    header, first, second, answer = (corpus / "triplets.csv").read_text().splitlines()
    assert header == "odd,a,b,user_id,mood,time"
    assert first == 't2,t0,t1,007,"glad, tired",'
    assert second == "t0,t1,elsewhere,,,"
    a, odd, b = questions(said)[0]
    assert answer.startswith(f"{odd},{a},{b},,,20")


@pytest.mark.parametrize(
    ("files", "words", "message"),
    [
        ({"triplets.parquet": "a,b,odd\nt0,t1,t2\n"}, [], "save the table as CSV"),
        ({"triplets.csv": "a,b,odd\nt0,t1,t1\n"}, [], "column 'odd', row 1: 't1', expected"),
        ({"tracks.csv": "track_id,path\nt0,x\nt1,y\n"}, [], "expected three training tracks"),
        ({}, ["rounds=0"], "rounds=0: expected a number above 0"),
        ({}, ["corpus=nowhere"], "corpus=nowhere does not exist"),
    ],
)
def test_a_mistake_ends_in_a_line_and_changes_nothing(corpus, files, words, message):
    for name, text in files.items():
        (corpus / name).write_text(text)
        if name.endswith(".parquet"):
            pl.read_csv(corpus / name).write_parquet(corpus / name)
        if name == "tracks.csv":
            (corpus / "tracks.parquet").unlink()
            (corpus / "plays.parquet").unlink()
    before = {path: path.read_bytes() for path in corpus.iterdir()}
    said = survey(corpus, "1\n1\n", *words, status=1)
    assert said.splitlines()[-1].startswith("error: ")
    assert message in said.splitlines()[-1]
    assert {path: path.read_bytes() for path in corpus.iterdir()} == before


def test_a_second_survey_waits(corpus):
    lock = FileLock(corpus / ".lock")
    lock.acquire()
    process = subprocess.Popen(
        command(corpus, "rounds=1"), env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        process.stdin.write(b"1\n")
        process.stdin.close()
        said = process.stderr.readline() + process.stderr.readline()
        assert b"in use by another process; waiting" in said
        (corpus / "triplets.csv").write_text("a,b,odd\nt0,t1,t2\n")  # as the first one would
        lock.release()
        process.stderr.read()
    assert process.returncode == 0
    assert len(answers(corpus)) == 2


def test_a_survey_never_imports_torch(corpus):
    program = (
        f"import runpy, sys; sys.argv = ['survey', {f'corpus={corpus}'!r}, 'run=run']\n"
        "try: runpy.run_module('tasks.survey', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'pytorch_lightning', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], input=b"1\n", env=ENVIRONMENT, check=True)


def test_an_answer_beside_times_in_seconds_is_in_seconds(corpus):
    """A table has times of one kind, or it could not be read again."""
    (corpus / "triplets.csv").write_text("a,b,odd,time\nt0,t2,t1,1700000000\n")
    survey(corpus, "1\nq\n")
    times = pl.read_csv(corpus / "triplets.csv")["time"]
    assert times.dtype.is_integer() and times[1] > times[0]
    assert len(read_corpus(corpus, uses=["triplets"]).triplets.odd) == 2
