"""Reading official annotation files: every row right, or refused with its place and the reason; made-up rows only."""

import os
import random
import string
from pathlib import Path

import pytest

from mbt_lightning.datasets import DATASETS
from mbt_lightning.datasets.cremad import actor_split
from mbt_lightning.datasets.kinetics_sounds import VARIANTS
from mbt_lightning.datasets.rows import (
    BadRow,
    check_line,
    read_names,
    split_cells,
    stamp,
    to_media_path,
    to_seconds,
)
from mbt_lightning.errors import UserError

A, B, C, D = "--aaSYNTH01", "1234567e890", "00012345678", "_-aaSYNTH_4"
"""Ids like an option, a float, a number with leading zeros, and with all that is split at."""


@pytest.fixture
def write(tmp_path):
    """Write a file of this name and text; returns its path."""

    def to(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return to


@pytest.fixture
def parse(write):
    """Write files by name and parse them; `labels` are class lists."""

    def to(dataset: str, files: dict, labels: dict | None = None, **options):
        annotations = [write(name, text) for name, text in files.items()]
        lists = [write(name, text) for name, text in (labels or {}).items()]
        return DATASETS[dataset].parse(annotations, lists, **options)

    return to


def refused(parsed) -> list[tuple[str, str]]:
    """The refused rows as (file name:line, reason), paths cut to names."""
    return [(Path(r.where).name, r.reason) for r in parsed.refused]


def rows(parsed) -> list[tuple]:
    """The clips, with the annotation cut to the file's name."""
    return [(*clip[:-1], Path(clip.annotation).name) for clip in parsed.clips]


# Lines and cells --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ("a,b", ["a", "b"]),
        ("a, b ,", ["a", "b", ""]),
        ('a,"b, c",d', ["a", "b, c", "d"]),
        ('a, "b,c" ,d', ["a", "b,c", "d"]),
        ('"a ""b""",c', ['a "b"', "c"]),
        ('"",""', ["", ""]),
        ("a,,", ["a", "", ""]),
        ("", [""]),
        ("it's,[x] (y)", ["it's", "[x] (y)"]),
    ],
)
def test_cells(line, cells):
    assert split_cells(line) == cells


def test_cells_separated_by_tabs_keep_the_empty_ones():
    assert split_cells('a\t\t"b,c"\t', "\t") == ["a", "", "b,c", ""]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('a,"b', "column 2: a quote is not closed at '\"b'"),
        ('a,b"c', "column 2: a stray quote at 'b\"c'"),
        ('"a"b,c', "column 1: text follows its closing quote; was the file edited?"),
        ('"a""', "column 1: text follows its closing quote; was the file edited?"),
        ("a,b\tc", "column 2: a tab in 'b\\tc'"),
    ],
)
def test_cells_that_are_refused(line, reason):
    with pytest.raises(BadRow) as error:
        split_cells(line)
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e3", "1_000", "", " 1", "0x1", "٣", "9" * 400, "1.2.3", "."])
def test_times_that_are_refused(text):
    with pytest.raises(BadRow, match="is not a number of seconds"):
        to_seconds(text)


def test_times():
    assert [to_seconds(t) for t in ("0", "030", "30.000", "1.", ".5")] == [0, 30, 30, 1, 0.5]
    assert [stamp(s) for s in (0.0, 30.0, 30.5, 1234567.0)] == ["000000", "000030", "000030.500", "1234567"]


@pytest.mark.parametrize(
    "path", ["../a.mp4", "/a.mp4", "a/../b.mp4", "a//b.mp4", "C:/a.mp4", "a\\b.mp4", "a/. ./b.mp4"]
)
def test_paths_that_leave_the_folder(path):
    with pytest.raises(BadRow, match="does not lead to a file inside the media folder"):
        to_media_path(path)


def test_paths_lose_a_media_suffix_and_nothing_else():
    paths = ["a/b.mp4", "./a/b.c.MP4", "a/b.c", "v1.2/b", "a/b.mka"]
    assert [to_media_path(path) for path in paths] == ["a/b", "a/b.c", "a/b.c", "v1.2/b", "a/b"]


@pytest.mark.parametrize("mark", ["\u200b", "\ufeff", "\u00a0", "\x00", "\x1b", "\u2028"])
def test_invisible_characters(mark):
    with pytest.raises(BadRow, match=f"invisible character U\\+{ord(mark):04X}"):
        check_line(f"a{mark}b")
    check_line("Straße, 犬, é\tb")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("b\na\n", ("b", "a")),
        ("\ufeffRace car, auto racing\r\n\r\nit's\r\n", ("Race car, auto racing", "it's")),
        ('"Race car, auto racing"\ncat', ("Race car, auto racing", "cat")),
        ("id,name\n1,b\n0,a\n", ("a", "b")),
        ("name,group\nb,x\na,x\n", ("b", "a")),
    ],
)
def test_class_lists(write, text, names):
    assert read_names(write("list.txt", text)).names == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", "class 'a' is listed 2 times"),
        ("id,name\n1,b\n2,a\n", "column id does not count from 0 to 1"),
        ("name,group\na\n", "list.txt:2: 1 columns, but the header has 2"),
        ('a\n"b\n', "list.txt:2: column 1: a quote is not closed"),
        (b"a\n\xe9\n", "list.txt:2: not UTF-8 text (byte 0xE9); save the file as UTF-8"),
        ("\n", "contains no classes"),
        ("name\n", "contains no classes"),
    ],
)
def test_class_lists_that_are_refused(write, text, message):
    with pytest.raises(UserError) as error:
        read_names(write("list.txt", text))
    assert message in str(error.value)


# Files ------------------------------------------------------------------------------------------------------------

VGG = f'{A},30,alpha clapping,train\n{C},0,"beta chirping, tweeting",test\n'


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "folder"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf\r\n\r\n", "the file is empty"),
        (b"\x1f\x8b\x08\x00", "a gzip file; unpack it first"),
        (b"PK\x03\x04aaaa", "a zip file or a spreadsheet"),
        (b"PAR1aaaa", "a Parquet file; save it as CSV"),
        ("a,b\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer, not the file itself"),
        (b"\n<!doctype html>\n", "a web page, not the file itself"),
    ],
)
def test_files_of_other_kinds(parse, name, content, message):
    with pytest.raises(UserError, match=r"train.csv: ") as error:
        parse(name, {"train.csv": content})
    assert message in str(error.value)


HEADERS = {
    "audioset": "# Segments csv created Mon\n",
    "epic-kitchens": "narration_id,participant_id,video_id,start_timestamp,stop_timestamp\n",
    "kinetics400": "label,youtube_id,time_start,time_end,split\n",
    "ave": "Category&VideoID&Quality&StartTime&EndTime\n",
    "cremad": '"Stimulus_Number","Filename"\n',
    "strong": "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n",
    "classes": "index,mid,display_name\n",
}


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in ("folder", "table")])
@pytest.mark.parametrize("other", HEADERS)
def test_lists_of_another_data_set(parse, name, other):
    if other == name or (other, name) == ("kinetics400", "kinetics-sounds"):
        return
    with pytest.raises(UserError, match=f"train.csv: this is .*, not a list of {name}'s clips"):
        parse(name, {"train.csv": HEADERS[other] + "a,b\n"})


def test_files_that_are_not_there(tmp_path, write):
    vggsound = DATASETS["vggsound"]
    with pytest.raises(UserError, match=r"vggsound: no annotation files; add --annotations FILE"):
        vggsound.parse([])
    with pytest.raises(UserError, match=r"none.csv: cannot be read: No such file"):
        vggsound.parse([tmp_path / "none.csv"])
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        vggsound.parse([tmp_path])
    os.mkfifo(tmp_path / "pipe.csv")  # as `<(zcat vggsound.csv.gz)` is
    with pytest.raises(UserError, match=r"pipe.csv: a pipe can be read only once; write it into a file first"):
        vggsound.parse([tmp_path / "pipe.csv"])
    path = write("vggsound.csv", VGG)
    with pytest.raises(UserError, match=r"vggsound.csv: is given twice"):
        vggsound.parse([path, path])
    with pytest.raises(UserError, match=r"2 class lists after --labels; give at most 1"):
        vggsound.parse([path], [path, path])
    with pytest.raises(UserError, match=r"vggsound: no variant 'x'; it has no variants"):
        vggsound.parse([path], variant="x")
    with pytest.raises(UserError, match=r"--split test: the files already give the split: train \(1\)"):
        vggsound.parse([write("one.csv", VGG.splitlines()[0])], split="test")


def test_a_file_of_which_no_row_can_be_read(parse):
    with pytest.raises(UserError, match=r"none of its 10 rows can be read; .*a.csv:1: 1 columns"):
        parse("vggsound", {"a.csv": "what is this\n" * 10})
    assert len(parse("vggsound", {"b.csv": "what is this\n" * 9}).refused) == 9


@pytest.mark.parametrize(
    "change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n"), lambda t: t[:-1] + "\n\n \n"]
)
def test_marks_line_ends_and_blank_lines(parse, change):
    parsed = parse("vggsound", {"v.csv": change(VGG)})
    assert rows(parsed) == rows(parse("vggsound", {"v.csv": VGG})) and not parsed.refused


def test_lines_that_are_not_utf8_cost_themselves_alone(parse):
    parsed = parse(
        "vggsound", {"v.csv": VGG.encode() + f"{D},1,caf\xe9,train\n".encode("latin-1") + b"\x00,1,a,train\n"}
    )
    assert len(parsed.clips) == 2
    assert refused(parsed) == [
        ("v.csv:3", "not UTF-8 text (byte 0xE9); save the file as UTF-8"),
        ("v.csv:4", "it contains the invisible character U+0000"),
    ]


def test_repeats_are_dropped_and_contradictions_refused_on_both_sides(parse):
    text = f"{A},30,dog,train\n{A},30,dog,train\n{C},0,cat,train\n{C},0,dog,test\n{C},0,cow,train\n{D},5,cat,test\n"
    parsed = parse("vggsound", {"v.csv": text})
    assert [clip.clip_id for clip in parsed.clips] == [f"{A}_000030", f"{D}_000005"]
    assert parsed.duplicates == 1
    places = [
        (where, reason.replace(str(Path(parsed.clips[0].annotation).parent), "")) for where, reason in refused(parsed)
    ]
    name = f"{C}_000000"
    assert places == [
        (
            "v.csv:3",
            f"clip '{name}' has labels 'cat' and split train here, but labels 'dog' and split test at /v.csv:4",
        ),
        (
            "v.csv:4",
            f"clip '{name}' has labels 'dog' and split test here, but labels 'cat' and split train at /v.csv:3",
        ),
        ("v.csv:5", f"clip '{name}' has labels 'cow' here, but labels 'cat' at /v.csv:3"),
    ]


# AudioSet ---------------------------------------------------------------------------------------------------------

CLASSES = {
    "class_labels_indices.csv": 'index,mid,display_name\n0,/m/0aaa01,"Speech"\n1,/t/dd90001,"Bark, bow-wow (dog)"\n'
    '2,/g/11aa_bb,"Child\'s song"\n'
}
HEAD = "# Segments csv created Mon Jan  6 09:00:00 2020\n"
HEAD += "# num_ytids=2, num_segs=2, num_unique_labels=3, num_positive_labels=3\n"
HEAD += "# YTID, start_seconds, end_seconds, positive_labels\n"
SEGMENTS = HEAD + f'{A}, 30.000, 40.000, "/m/0aaa01,/t/dd90001"\n{B}, 0.000, 9.000, "/g/11aa_bb"\n'
TWO_CLIPS = [
    (f"{A}_30000", A, 30.0, 40.0, ("Speech", "Bark, bow-wow (dog)"), "train"),
    (f"{B}_0", B, 0.0, 9.0, ("Child's song",), "train"),
]
NOTE = "3 classes; officially there are 527"


def test_audioset(parse):
    parsed = parse("audioset", {"balanced_train_segments.csv": SEGMENTS}, CLASSES)
    assert [row[:-1] for row in rows(parsed)] == TWO_CLIPS
    assert [row[-1] for row in rows(parsed)] == ["balanced_train_segments.csv:4", "balanced_train_segments.csv:5"]
    assert parsed.classes == ("Speech", "Bark, bow-wow (dog)", "Child's song")
    assert (parsed.groups, parsed.refused, parsed.duplicates, parsed.notes) == ((), [], 0, [NOTE])


def test_a_label_twice_in_a_row_of_audioset_is_taken_once_and_counted(parse):
    text = SEGMENTS.replace("/m/0aaa01,", "/m/0aaa01,/m/0aaa01,")
    parsed = parse("audioset", {"balanced_train_segments.csv": text}, CLASSES)
    assert [row[:-1] for row in rows(parsed)] == TWO_CLIPS and not parsed.refused
    assert any(note.endswith("1 rows list a label twice, which is taken once") for note in parsed.notes)


@pytest.mark.parametrize(
    "text",
    [
        SEGMENTS.replace(", ", ","),
        "\ufeff" + SEGMENTS.replace("\n", "\r\n"),
        SEGMENTS.removeprefix(HEAD),
        "YTID,start_seconds,end_seconds,positive_labels\n"
        + f'{A},30.0,40.0,"/m/0aaa01,/t/dd90001"\n{B},0.0,9.0,/g/11aa_bb\n',
        f'{A},30.000,40.000,"""/m/0aaa01","/t/dd90001""",,,\n{B},0.000,9.000,"""/g/11aa_bb""",,,,\n',
        f'{A},30,40,"/m/0aaa01,/t/dd90001",\n{B},0,9,/g/11aa_bb,,\n',
        f"{A},30,40,/m/0aaa01,/t/dd90001\n{B},0,9,/g/11aa_bb,\n",
    ],
    ids=["no spaces", "BOM and CRLF", "no header", "pandas", "spreadsheet", "spreadsheet 2", "no quotes"],
)
def test_copies_of_audioset(parse, text):
    parsed = parse("audioset", {"balanced_train_segments.csv": text}, CLASSES)
    assert [row[:-1] for row in rows(parsed)] == TWO_CLIPS and not parsed.refused and parsed.notes == [NOTE]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f'{A},0,10,"""/m/0aaa01",,', "the quotes around the labels '\"/m/0aaa01' do not match: some labels are lost"),
        (f'{A},0,10,"""/m/0aaa01",/t/dd90001', "the quotes around the labels '\"/m/0aaa01,/t/dd90001' do not match"),
        (f'{A},0,10,/m/0aaa01,"/t/dd90001"""', "the quotes around the labels '/m/0aaa01,/t/dd90001\"' do not match"),
        (f'{A}, 0.000, 10.000, "/m/0aaa01', "column 4: a quote is not closed"),
        (f"{A},0,10,/m/0aaa01,,/t/dd90001", "the labels '/m/0aaa01,,/t/dd90001' contain an empty one or a stray quote"),
        (f'{A}, 0.000, 10.000, "/m/0aaa01,"', "label '' is not in"),
        (f'{A},0,10,"/m/0aaa01, "', "the labels '/m/0aaa01,' contain an empty one"),
        (f'{A}, 0.000, 10.000, ""', "the row has no labels"),
        (f"{A}, 0.000, 10.000", "3 columns instead of 4: YTID, start, end, labels"),
        (f'{A}, 0.000, 10.000, "/m/0aaa02"', "label '/m/0aaa02' is not in"),
        (f'{A}, 10.000, 10.000, "/m/0aaa01"', "the segment ends at 10.000 s, which is not after its start at 10.000 s"),
        (f'{A}, nan, 10.000, "/m/0aaa01"', "time 'nan' is not a number of seconds"),
        (f'{A}, -1.000, 10.000, "/m/0aaa01"', "time '-1.000' is not a number of seconds"),
        (
            '#NAME?,0,10,"/m/0aaa01"',
            "video id '#NAME?' does not have 11 characters of A-Z a-z 0-9 - _; did a spreadsheet",
        ),
        ('1.234567E+896,0,10,"/m/0aaa01"', "video id '1.234567E+896' does not have 11 characters"),
        (
            '12345678,0,10,"/m/0aaa01"',
            "video id '12345678' does not have 11 characters of A-Z a-z 0-9 - _; did a spread",
        ),
        (f'0,{A},0,10,"/m/0aaa01"', "video id '0' does not have 11"),
    ],
)
def test_rows_of_audioset_that_are_refused(parse, line, reason):
    parsed = parse("audioset", {"eval_segments.csv": SEGMENTS + line + "\n"}, CLASSES)
    ((where, message),) = refused(parsed)
    assert where == "eval_segments.csv:6" and message.startswith(reason)
    assert len(parsed.clips) == 2 and {clip.split for clip in parsed.clips} == {"test"}


def test_nearest_label(parse):
    parsed = parse("audioset", {"eval.csv": f'{A}, 0.000, 10.000, "/m/0aaa02"\n'}, CLASSES)
    assert parsed.refused[0].reason.endswith("class_labels_indices.csv; did you mean '/m/0aaa01'?")


def test_counts_of_audiosets_header(parse):
    cut = SEGMENTS.replace(B, "#NAME?")
    notes = parse("audioset", {"balanced_train_segments.csv": cut}, CLASSES).notes
    assert [note.partition(": ")[2] for note in notes[:-1]] == [
        "its header declares num_segs=2, but 1 could be read",
        "its header declares num_unique_labels=3, but 2 could be read",
        "its header declares num_positive_labels=3, but 2 could be read",
    ]
    both = SEGMENTS + SEGMENTS.replace(A, C).replace(B, D)
    assert parse("audioset", {"train.csv": both.replace("num_unique_labels=3, ", "")}, CLASSES).notes == [NOTE]


def test_audioset_that_lost_labels_or_times_is_reported(parse):
    ids = [f"aaSYNTH{i:04d}" for i in range(100)]
    text = "".join(f"{name},0,10,/m/0aaa01\n" for name in ids)
    (note, _) = parse("audioset", {"train.csv": text}, CLASSES).notes
    assert "every clip has one label" in note
    (note, _) = parse("audioset", {"train.csv": f"{A},0,100,/m/0aaa01\n"}, CLASSES).notes
    assert "1 segments are longer than 10 s, AudioSet's maximum" in note
    (_, note) = parse("audioset", {"train.csv": f"{A},0,9,/m/0aaa01\n{A},20,30,/m/0aaa01\n"}, CLASSES).notes
    assert note == "1 clips share their video with another one; officially each video has one clip"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("balanced_train_segments.csv", "train"),
        ("unbalanced_train_segments.csv", "train"),
        ("unbalanced.csv", "train"),
        ("eval_segments.csv", "test"),
        ("official_eval_segments.csv", "test"),
        ("Balanced_Train_Segments.CSV", "train"),
    ],
)
def test_splits_of_audioset(parse, name, split):
    assert {clip.split for clip in parse("audioset", {name: SEGMENTS}, CLASSES).clips} == {split}


def test_splits_that_are_unknown(parse):
    for name in ("segments.csv", "train_eval.csv"):
        message = f"{name}: no split in the file's name or in a column; add --split train|val|test"
        with pytest.raises(UserError, match=message.replace("|", r"\|")):
            parse("audioset", {name: SEGMENTS}, CLASSES)
        parsed = parse("audioset", {name: SEGMENTS}, CLASSES, split="validation")
        assert {clip.split for clip in parsed.clips} == {"val"}
    with pytest.raises(UserError, match=r"--split test: the files already give the split: train \(2\); leave out"):
        parse("audioset", {"balanced_train_segments.csv": SEGMENTS}, CLASSES, split="test")


def test_variants_of_audioset(parse):
    train, more = {"balanced_train_segments.csv": SEGMENTS}, {"unbalanced_train_segments.csv": SEGMENTS.replace(A, C)}
    assert len(parse("audioset", train, CLASSES, variant="mini").clips) == 2
    parsed = parse("audioset", train | more, CLASSES, variant="full")
    assert (len(parsed.clips), parsed.duplicates) == (3, 1)
    with pytest.raises(UserError, match="variant mini trains on the balanced list only; leave this file out"):
        parse("audioset", train | more, CLASSES, variant="mini")
    with pytest.raises(UserError, match=r"variant 500k needs unbalanced_train_segments.csv among --annotations"):
        parse("audioset", train, CLASSES, variant="500k")
    with pytest.raises(UserError, match="audioset: no variant 'huge'; its variants are: mini, full, 500k"):
        parse("audioset", train, CLASSES, variant="huge")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,name\n", "not the official class list; its first line is `index,mid,display_name`"),
        ('index,mid,display_name\n1,/m/0aaa01,"Speech"\n', ":2: expected the row `0,mid,display_name`"),
        (
            "index,mid,display_name\n0,/m/0aaa01,Bark, bow-wow\n",
            ":2: expected the row `0,mid,display_name`",
        ),
        ("index,mid,display_name\n0,/m/0aaa01,a\n1,/m/0aaa02,a\n", "class 'a' is listed 2 times"),
        ("index,mid,display_name\n0,/m/0aaa01,a\n1,/m/0aaa01,b\n", "class '/m/0aaa01' is listed 2 times"),
    ],
)
def test_class_lists_of_audioset_that_are_refused(parse, text, message):
    with pytest.raises(UserError) as error:
        parse("audioset", {"eval.csv": SEGMENTS}, {"class_labels_indices.csv": text})
    assert message in str(error.value)


def test_audioset_without_class_list(parse):
    with pytest.raises(UserError, match=r"audioset: no class list; add --labels class_labels_indices.csv"):
        parse("audioset", {"eval.csv": SEGMENTS})


# VGGSound ---------------------------------------------------------------------------------------------------------


def test_vggsound(parse):
    parsed = parse("vggsound", {"vggsound.csv": VGG})
    assert rows(parsed) == [
        (f"{A}_000030", A, 30.0, 40.0, ("alpha clapping",), "train", "vggsound.csv:1"),
        (f"{C}_000000", C, 0.0, 10.0, ("beta chirping, tweeting",), "test", "vggsound.csv:2"),
    ]
    assert parsed.classes == ("alpha clapping", "beta chirping, tweeting") and parsed.groups == ()
    assert parsed.notes == ["2 classes; officially there are 309"]


def test_vggsounds_other_lists(parse):
    train, test = f"{A}_000030.mp4,alpha clapping\n", f'{C}_000000.mp4,"beta chirping, tweeting"\n'
    both = parse("vggsound", {"train.csv": train, "test.csv": test})
    assert [row[:-1] for row in rows(both)] == [row[:-1] for row in rows(parse("vggsound", {"v.csv": VGG}))]
    parsed = parse("vggsound", {"train.csv": train + "a_000001.mp4,alpha\n", "v.csv": VGG})
    assert (len(parsed.clips), parsed.duplicates) == (2, 1)
    assert refused(parsed) == [
        ("train.csv:2", "file 'a_000001.mp4' is not named <id of 11 characters>_<start of 6 digits>.mp4")
    ]
    with pytest.raises(UserError, match=r"list.csv: no split in the file's name or in a column"):
        parse("vggsound", {"list.csv": train})


STAT = {"stat.csv": '"beta chirping, tweeting",3,animals\nalpha clapping,2,people\n'}


def test_vggsounds_class_list(parse):
    parsed = parse("vggsound", {"v.csv": VGG + f"{D},5,alpha claping,test\n"}, STAT)
    assert (parsed.classes, parsed.groups) == (("alpha clapping", "beta chirping, tweeting"), ("people", "animals"))
    ((where, reason),) = refused(parsed)
    assert where == "v.csv:3" and reason.startswith("label 'alpha claping' is not in")
    assert reason.endswith("stat.csv; did you mean 'alpha clapping'?")
    with pytest.raises(UserError, match=r"stat.csv:1: expected `label,count,group`"):
        parse("vggsound", {"v.csv": VGG}, {"stat.csv": "beta chirping, tweeting,3,animals\n"})
    with pytest.raises(UserError, match=r"stat.csv: class 'a' has no group, but others have"):
        parse("vggsound", {"v.csv": VGG}, {"stat.csv": "a,1,\nb,2,x\n"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (
            f"{D},5,beta chirping, tweeting,test",
            "5 columns instead of 4; a name with commas must be quoted",
        ),
        (f"{D},5,,test", "the label is empty"),
        (f"{D},five,a,test", "time 'five' is not a number of seconds"),
        (f"{D},5,a,dev", "split 'dev' is not one of train, val, validate, test"),
        ("a_b,5,a,test", "video id 'a_b' does not have 11 characters of A-Z a-z 0-9 - _"),
        ("youtube_id,start_second,label,split", "video id 'youtube_id' does not have 11"),
    ],
)
def test_rows_of_vggsound_that_are_refused(parse, line, reason):
    ((where, message),) = refused(parse("vggsound", {"v.csv": VGG + line}))
    assert where == "v.csv:3" and message.startswith(reason)


# EPIC-KITCHENS-100 ------------------------------------------------------------------------------------------------

TIMED = "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame"
EPIC = TIMED + ",narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n"
ONE = """P01_01_10,P01,P01_01,,00:01:05.50,00:01:07.00,1,2,"put down mug, bowl",place,1,cup,0,"['cup', 'b:s']","[0, 1]"
"""
TWO = """P01_101_2,P01,P01_101,01:00:00.001,01:00:00.07,01:00:01.00,1,2,cut,cut,96,x,299,"[""lady's finger""]",[299]
"""


def test_epic_kitchens(parse):
    parsed = parse("epic-kitchens", {"EPIC_100_train.csv": EPIC + ONE, "EPIC_100_validation.csv": EPIC + TWO})
    assert rows(parsed) == [
        ("P01_01_10", "P01_01", 65.5, 67.0, ("verb:1", "noun:0"), "train", "EPIC_100_train.csv:2"),
        ("P01_101_2", "P01_101", 3600.07, 3601.0, ("verb:96", "noun:299"), "val", "EPIC_100_validation.csv:2"),
    ]
    assert parsed.classes == (*(f"verb:{i}" for i in range(97)), *(f"noun:{i}" for i in range(300)))
    assert parsed.groups == ("verb",) * 97 + ("noun",) * 300
    assert not parsed.refused and not parsed.notes


def test_epic_kitchens_without_labels(parse):
    text = TIMED + "\nP01_11_0,P01,P01_11,,00:00:00.00,00:00:01.36,0,82\n"
    parsed = parse("epic-kitchens", {"EPIC_100_test_timestamps.csv": text})
    assert (parsed.clips[0].labels, parsed.clips[0].split) == ((), "test")
    assert parsed.notes == ["1 clips have no labels; only prediction and multi-label tasks can use them"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("00:01:05.50", "00:01:08.50", "the segment ends at 00:01:07.00, which is not after its start at 00:01:08.50"),
        ("00:01:05.50", "65.5", "time '65.5' is not written hh:mm:ss.cc"),
        ("00:01:05.50", "00:61:05.50", "time '00:61:05.50' is not written hh:mm:ss.cc"),
        ("place,1,", "place,97,", "verb_class 97 is out of range: 0 to 96"),
        ("cup,0,", "cup,-1,", "noun_class is '-1', not a whole number"),
        ("cup,0,", "cup,0.0,", "noun_class is '0.0', not a whole number"),
        ("cup,0,", "cup,2,", "noun_class 2 is not in all_noun_classes '[0, 1]'"),
        ("[0, 1]", "[0]", "2 nouns in all_nouns, 1 in all_noun_classes"),
        ("[0, 1]", "[0, exit()]", "'[0, exit()]' is not a list of class numbers"),
        ("'b:s']", "'b:s'", "\"['cup', 'b:s'\" is not a list of nouns"),
        (
            '"put down mug, bowl"',
            "put down mug, bowl",
            "16 columns instead of 15; a name with commas must be quoted",
        ),
        ("P01,P01_01", "P02,P01_01", "video 'P01_01' is not named after participant 'P02'"),
        ("P01_01_10", "P01_02_10", "narration 'P01_02_10' is not named after its video 'P01_01'"),
    ],
)
def test_rows_of_epic_kitchens_that_are_refused(parse, old, new, reason):
    assert old in ONE
    parsed = parse("epic-kitchens", {"EPIC_100_train.csv": EPIC + TWO + ONE.replace(old, new, 1)})
    ((where, message),) = refused(parsed)
    assert where == "EPIC_100_train.csv:3" and message.startswith(reason) and len(parsed.clips) == 1


def epic_classes(count: int) -> str:
    return "\r\n".join(["id,key,instances,category", *(f"{i},\"['k']\",c,x" for i in range(count))])


def test_class_lists_of_epic_kitchens(parse):
    verbs, nouns = "EPIC_100_verb_classes.csv", "EPIC_100_noun_classes.csv"
    train = {"EPIC_100_train.csv": EPIC + ONE}
    parsed = parse("epic-kitchens", train, {nouns: epic_classes(300), verbs: epic_classes(97)})
    assert len(parsed.classes) == 397 and parsed.classes[97] == "noun:0" and not parsed.notes
    parsed = parse("epic-kitchens", train, {verbs: epic_classes(1)})
    assert parsed.notes == ["1 verb classes; officially there are 97"]
    assert refused(parsed)[0][1] == "verb_class 1 is out of range: 0 to 0"
    for name, text, message in [
        ("EPIC_100_noun_classes_v2.csv", epic_classes(305), "305 nouns: this is the second list"),
        ("classes.csv", epic_classes(97), "the name must contain `verb` or `noun`"),
        (verbs, "key\n", "not the official class list"),
        (verbs, epic_classes(97).replace("\n5,", "\n7,"), "classes.csv:7: expected the row `5,key,instances,category`"),
    ]:
        with pytest.raises(UserError, match=message):
            parse("epic-kitchens", train, {name: text})


def test_headers_of_epic_kitchens(parse):
    with pytest.raises(UserError, match="column stop_timestamp is missing; the first line has"):
        parse("epic-kitchens", {"EPIC_100_train.csv": EPIC.replace("stop_timestamp", "stop") + ONE})
    with pytest.raises(UserError, match="column noun_class is missing, but there are other label columns"):
        parse("epic-kitchens", {"EPIC_100_train.csv": EPIC.replace(",noun_class", ",nouns") + ONE})
    with pytest.raises(UserError, match="contains no clips"):
        parse("epic-kitchens", {"EPIC_100_train.csv": EPIC})


# Kinetics ---------------------------------------------------------------------------------------------------------

K400 = f"""label,youtube_id,time_start,time_end,split
"playing drums",{C},0,10,train
massaging person's head,{A},30,40,validate
"""


def test_kinetics(parse):
    parsed = parse("kinetics400", {"list.csv": K400})
    assert rows(parsed) == [
        (f"{C}_000000_000010", C, 0.0, 10.0, ("playing drums",), "train", "list.csv:2"),
        (f"{A}_000030_000040", A, 30.0, 40.0, ("massaging person's head",), "val", "list.csv:3"),
    ]
    assert parsed.classes == ("massaging person's head", "playing drums")
    assert parsed.notes == ["2 classes; officially there are 400"]


def test_headers_of_kinetics(parse):
    with_cc = "\n".join(line + (",is_cc" if n == 0 else ",0") for n, line in enumerate(K400.splitlines()))
    assert rows(parse("kinetics400", {"list.csv": with_cc})) == rows(parse("kinetics400", {"list.csv": K400}))
    bare = parse("kinetics400", {"test.csv": f"youtube_id,time_start,time_end,split\n{C},0,10,test\n"})
    assert (bare.clips[0].labels, bare.clips[0].split) == ((), "test")
    assert bare.notes[-1] == "1 clips have no labels; only prediction and multi-label tasks can use them"
    with pytest.raises(UserError, match="column time_end is missing"):
        parse("kinetics400", {"test.csv": f"label,youtube_id,time_start,split\na,{C},0,test\n"})
    with pytest.raises(UserError, match="the first line names column 'label' twice"):
        parse("kinetics400", {"test.csv": "label,youtube_id,time_start,time_end,split,label\n"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"playing drums,{D},10,0,train", "the segment ends at 0 s, which is not after its start at 10 s"),
        (f",{D},0,10,train", "the label is empty"),
        (f"playing drums,{D},0,10,", "split '' is not one of"),
        (f"a, b,{D},0,10,train", "6 columns instead of 5; a name with commas must be quoted"),
        (f"playing drum,{D},0,10,train", "label 'playing drum' is not in"),
    ],
)
def test_rows_of_kinetics_that_are_refused(parse, line, reason):
    labels = {"classes.txt": "playing drums\nmassaging person's head\n"}
    parsed = parse("kinetics400", {"list.csv": K400 + line}, labels)
    ((where, message),) = refused(parsed)
    assert where == "list.csv:4" and message.startswith(reason)
    assert parsed.classes == ("playing drums", "massaging person's head")


def test_kinetics_sounds_variants():
    assert [len(names) for names in VARIANTS.values()] == [31, 32]
    assert set(VARIANTS["32"]) - set(VARIANTS["31"]) == {"strumming guitar"}
    assert all(list(names) == sorted(names) for names in VARIANTS.values())
    assert VARIANTS["31"][4] == "dribbling basketball"


def test_kinetics_sounds(parse, write):
    text = K400 + f"playing drums,{B},1,11,val\nplaying drums,{B},50,60,test\n"
    text += f"Playing_Drums,{D},0,10,val\nstrumming guitar,{D},0,10,val\n"
    parsed = parse("kinetics-sounds", {"list.csv": text})
    assert [(clip.source_id, clip.split) for clip in parsed.clips] == [(C, "train"), (B, "test")]
    assert parsed.classes == VARIANTS["31"]
    where = ("list.csv:6", "label 'Playing_Drums' is not in variant 31; did you mean 'playing drums'?")
    assert refused(parsed) == [where]
    assert parsed.notes[0] == "2 rows of other Kinetics classes were left out"
    assert parsed.notes[1] == "1 rows of Kinetics' test set were left out"
    assert parsed.notes[2].startswith("30 classes have no clips: blowing nose, ")
    assert len(parse("kinetics-sounds", {"list.csv": text}, variant="32").clips) == 3
    own = write("own.txt", "strumming guitar\nmassaging person's head\n")
    for options in ({"variant": str(own)}, {"variant": "file", "labels": {"own.txt": own.read_text()}}):
        parsed = parse("kinetics-sounds", {"list.csv": text}, **options)
        assert parsed.classes == ("massaging person's head", "strumming guitar") and len(parsed.clips) == 2
    with pytest.raises(UserError, match="no variant '36'; give 31, 32, the path of a list of classes"):
        parse("kinetics-sounds", {"list.csv": text}, variant="36")
    with pytest.raises(UserError, match="variant file needs a list of classes; add --labels FILE"):
        parse("kinetics-sounds", {"list.csv": text}, variant="file")


def test_kinetics_sounds_of_gewu(parse):
    files = {
        "my_train.txt": f"{C}_000030_000040,10,4\r\n{D}_000030_000045,10,4\r\n{D}_000030_000040,10,31\r\nx,10,1\r\n",
        "my_test.txt": f"{A}_7,10,0\r\n",
    }
    parsed = parse("kinetics-sounds", files)
    assert rows(parsed) == [
        (f"{C}_000030_000040", C, 30.0, 40.0, ("dribbling basketball",), "train", "my_train.txt:1"),
        (f"{A}_000007_000017", A, 7.0, 17.0, ("blowing nose",), "test", "my_test.txt:1"),
    ]
    assert refused(parsed) == [
        ("my_train.txt:2", f"clip '{D}_000030_000045': 15 s by its name, but 10 s by the second column"),
        ("my_train.txt:3", "class 31 is out of range: 0 to 30"),
        ("my_train.txt:4", "clip 'x' is not named <id of 11 characters>_<start> or <id>_<start>_<end>"),
    ]
    with pytest.raises(UserError, match="it needs --variant 31"):
        parse("kinetics-sounds", files, variant="32")


# Moments in Time --------------------------------------------------------------------------------------------------

MOMENTS = {"moments_categories.txt": "playing+music,1\nclapping,0\n"}
MIT = "clapping/yt-aaSYNTH0_1.mp4,clapping,3,0\nplaying+music/getty-a.b_4.MP4,playing+music,2,1\n"


def test_moments_in_time(parse):
    parsed = parse(
        "moments-in-time",
        {"trainingSet.csv": MIT[: MIT.index("\n")], "validationSet.csv": MIT[MIT.index("\n") :]},
        MOMENTS,
    )
    first, second = "clapping/yt-aaSYNTH0_1", "playing+music/getty-a.b_4"
    assert rows(parsed) == [
        (first, first, None, None, ("clapping",), "train", "trainingSet.csv:1"),
        (second, second, None, None, ("playing+music",), "val", "validationSet.csv:2"),
    ]
    assert parsed.classes == ("clapping", "playing+music")
    assert parsed.notes == ["2 classes; officially there are 339"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("../clapping/a.mp4,clapping,3,0", "path '../clapping/a.mp4' does not lead to a file inside the media folder"),
        ("/clapping/a.mp4,clapping,3,0", "path '/clapping/a.mp4' does not lead"),
        ("barking/a.mp4,clapping,3,0", "path 'barking/a.mp4' does not start with the folder of its label 'clapping'"),
        ("clapping,clapping,3,0", "path 'clapping' does not start with the folder of its label"),
        ("claping/a.mp4,claping,3,0", "label 'claping' is not in"),
        ("clapping/a.mp4,clapping,3", "3 columns instead of 4"),
        ("clapping/a.mp4,clapping,x,0", "the number of votes is 'x', not a whole number"),
    ],
)
def test_rows_of_moments_in_time_that_are_refused(parse, line, reason):
    ((where, message),) = refused(parse("moments-in-time", {"trainingSet.csv": MIT + line}, MOMENTS))
    assert where == "trainingSet.csv:3" and message.startswith(reason)


def test_files_of_moments_in_time_that_are_refused(parse):
    for name, text in [("trainingSet.txt", MIT), ("trainingSet.csv", "clapping/a.mp4,1,4\n")]:
        with pytest.raises(UserError, match=r"this is a list of Multi-Moments in Time; give trainingSet.csv"):
            parse("moments-in-time", {name: text}, MOMENTS)
    with pytest.raises(UserError, match=r"moments-in-time: no class list; add --labels moments_categories.txt"):
        parse("moments-in-time", {"trainingSet.csv": MIT})
    for text, message in [
        ("clapping,0\nbarking,2\n", "no class has index 1"),
        ("clapping,0\nbarking,0\n", r":2: index 0 is already used by class 'clapping'"),
        ("clapping\n", r":1: expected a row `name,index`"),
    ]:
        with pytest.raises(UserError, match=message):
            parse("moments-in-time", {"trainingSet.csv": MIT}, {"moments_categories.txt": text})


# CREMA-D ----------------------------------------------------------------------------------------------------------


def test_cremad(parse):
    parsed = parse(
        "cremad", {"train.csv": "1001_DFA_ANG_XX,ANG\r\n1076_MTI_SAD_XX,SAD\r\n", "test.csv": "1091_IEO_HAP_HI,HAP\r\n"}
    )
    assert rows(parsed) == [
        ("1001_DFA_ANG_XX", "1001_DFA_ANG_XX", None, None, ("ANG",), "train", "train.csv:1"),
        ("1076_MTI_SAD_XX", "1076_MTI_SAD_XX", None, None, ("SAD",), "train", "train.csv:2"),
        ("1091_IEO_HAP_HI", "1091_IEO_HAP_HI", None, None, ("HAP",), "test", "test.csv:1"),
    ]
    assert parsed.classes == ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
    assert parsed.notes == ["1076_MTI_SAD_XX has no audio"]


def test_cremad_by_actor(parse):
    lists = {
        "SentenceFilenames.csv": '"Stimulus_Number","Filename"\n1,"1001_DFA_ANG_XX"\n2,"1001_IEO_NEU_XX"',
        "train.csv": "1001_DFA_ANG_XX,ANG\n",
        "test.csv": "1901_DFA_ANG_XX,ANG\n",
    }
    parsed = parse("cremad", lists, variant="by-actor")
    assert [(clip.clip_id, clip.split) for clip in parsed.clips] == [
        (name, actor_split(name[:4])) for name in ("1001_DFA_ANG_XX", "1001_IEO_NEU_XX", "1901_DFA_ANG_XX")
    ]
    assert parsed.duplicates == 1
    assert parsed.notes == ["1 actors, the first 1901, are not among the official 1001-1091"]
    splits = [actor_split(str(actor)) for actor in range(1001, 1092)]
    assert [splits.count(name) for name in ("train", "val", "test")] == [73, 9, 9]
    assert [1001 + n for n, name in enumerate(splits) if name == "test"] == TEST_ACTORS


TEST_ACTORS = [1010, 1022, 1024, 1027, 1036, 1056, 1080, 1089, 1090]
"""The split is a promise: it must not change from one version to the next."""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1001_DFA_ANG_XX,HAP", "label 'HAP' is not the emotion in the name '1001_DFA_ANG_XX'"),
        ("1001_DFA_JOY_XX,JOY", "'1001_DFA_JOY_XX' is not named <actor>_<sentence>_<emotion>_<level>"),
        ("1001_DFA_ANG_HI,ANG", "'1001_DFA_ANG_HI' has level HI, which only sentence IEO has"),
        ("1001_DFA_ANG_XX", "1 columns instead of 2"),
    ],
)
def test_rows_of_cremad_that_are_refused(parse, line, reason):
    ((where, message),) = refused(parse("cremad", {"train.csv": "1002_DFA_ANG_XX,ANG\r\n" + line + "\r\n"}))
    assert where == "train.csv:2" and message.startswith(reason)


def test_files_of_cremad(parse):
    with pytest.raises(UserError, match=r"has no split; give GeWu-Lab's train.csv and test.csv, or --variant"):
        parse("cremad", {"SentenceFilenames.csv": '"Stimulus_Number","Filename"\n1,"1001_DFA_ANG_XX"\n'})
    stat = {"stat.csv": "\ufeffNEU,1\r\nHAP,1\r\nSAD,1\r\nFEA,1\r\nDIS,1\r\nANG,1\r\n"}
    train = {"train.csv": "1001_DFA_ANG_XX,ANG\n"}
    assert parse("cremad", train, stat).classes[0] == "NEU"
    with pytest.raises(UserError, match="its first column is 'NEU, JOY'; it must be: NEU, HAP, SAD"):
        parse("cremad", train, {"stat.csv": "NEU\nJOY\n"})


# AVE --------------------------------------------------------------------------------------------------------------

AVE = f"Race car, auto racing&{C}&good&2&7\nBanjo&{A}&good&0&10\n"


@pytest.mark.parametrize("head", ["", "Category&VideoID&Quality&StartTime&EndTime\n"])
def test_ave(parse, head):
    parsed = parse("ave", {"trainSet.txt": head + AVE, "valSet.txt": f"Mandolin&{A}&good&0&0\n"})
    n = 1 + bool(head)
    assert rows(parsed) == [
        (f"{C}_race-car-auto-racing", C, None, None, ("Race car, auto racing",), "train", f"trainSet.txt:{n}"),
        (f"{A}_banjo", A, None, None, ("Banjo",), "train", f"trainSet.txt:{n + 1}"),
        (f"{A}_mandolin", A, None, None, ("Mandolin",), "val", "valSet.txt:1"),
    ]
    assert parsed.classes == ("Banjo", "Mandolin", "Race car, auto racing")
    empty, count, again = parsed.notes
    assert empty.startswith("1 events last 0 s, the first at ") and empty.endswith("valSet.txt:1; all are used")
    assert count == "3 classes; officially there are 28"
    assert again == "1 clips share their video with a clip of another category"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"Banjo&{D}&good&7&2", "the event from 7 to 2 s is not inside a clip of 10 s"),
        (f"Banjo&{D}&good&0&11", "the event from 0 to 11 s is not inside a clip of 10 s"),
        (f"Banjo&{D}&good&0", "4 columns instead of 5"),
        (f"&{D}&good&0&10", "the category or the quality is empty"),
        (f"Banjos&{D}&good&0&10", "label 'Banjos' is not in"),
    ],
)
def test_rows_of_ave_that_are_refused(parse, line, reason):
    labels = {"classes.txt": "Banjo\nRace car, auto racing\n"}
    ((where, message),) = refused(parse("ave", {"testSet.txt": AVE + line}, labels))
    assert where == "testSet.txt:3" and message.startswith(reason)


def test_aves_list_of_all_has_no_split(parse):
    with pytest.raises(UserError, match=r"Annotations.txt: no split in the file's name or in a column"):
        parse("ave", {"Annotations.txt": AVE})


# Folders and tables -----------------------------------------------------------------------------------------------


def media(write, *names: str) -> Path:
    for name in names:
        path = write(f"media/{name}", "x")
    return path.parents[name.count("/")]


def test_folder(write):
    names = ["train/dog/a.b.mp4", "train/dog/x/a.mp4", "train/dog/x/a.wav", "validation/cat/c.MP4", "test/dog/d.webm"]
    root = media(
        write, *names, "train/dog/notes.txt", "train/dog/._a.mp4", "train/dog/e.mp4.part", ".trash/dog/f.mp4", "g.mp4"
    )
    parsed = DATASETS["folder"].parse([], media=root)
    assert [clip[:1] + clip[4:] for clip in parsed.clips] == [
        ("test/dog/d", ("dog",), "test", "test/dog/d.webm"),
        ("train/dog/a.b", ("dog",), "train", "train/dog/a.b.mp4"),
        ("train/dog/x/a", ("dog",), "train", "train/dog/x/a.mp4"),
        ("validation/cat/c", ("cat",), "val", "validation/cat/c.MP4"),
    ]
    assert parsed.classes == ("cat", "dog")
    reason = "not in a folder train, val or test; if the folders are classes, add --split"
    assert refused(parsed) == [("g.mp4", reason)]
    assert parsed.notes == ["3 files are not media and were ignored: .mp4 (1), .part (1), .txt (1)"]


def test_folder_of_classes_alone(write):
    root = media(write, "dog/a.mp4", "dgo/b.mp4", "c.mp4")
    parsed = DATASETS["folder"].parse([], [write("list.txt", "dog\ncat\n")], split="train", media=root)
    assert [(clip.source_id, clip.split) for clip in parsed.clips] == [("dog/a", "train")]
    assert parsed.classes == ("dog", "cat")
    assert [reason.partition(" in /")[0] for _, reason in refused(parsed)] == [
        "not in a class folder",
        "label 'dgo' is not",
    ]


def test_folders_that_are_refused(write, tmp_path):
    folder = DATASETS["folder"]
    with pytest.raises(UserError, match="no media folder: no such folder; add --media DIR"):
        folder.parse([])
    with pytest.raises(UserError, match=r"a.csv: `folder` reads no annotations, only folders; `table` reads lists"):
        folder.parse([tmp_path / "a.csv"], media=tmp_path)
    with pytest.raises(UserError, match="contains no media files"):
        folder.parse([], split="train", media=media(write, "dog/a.txt"))
    with pytest.raises(UserError, match="its folders are splits; leave out --split"):
        folder.parse([], split="train", media=write("splits/train/dog/a.mp4", "x").parents[2])


def test_a_link_back_up_ends_the_walk(write):
    root = media(write, "train/dog/a.mp4")
    (root / "train/dog/up").symlink_to(root)
    assert [clip.clip_id for clip in DATASETS["folder"].parse([], media=root).clips] == ["train/dog/a"]


def test_table(parse):
    text = "video,labels,split,start_seconds,end_seconds,clip_id\nx/a.mp4,dog|cat,train,,,\nb.c,,mine,1.5,4,own\n"
    text += 'c,"[""a, b""]",Validation,2,,\nd,e,test,,3,\n'
    parsed = parse("table", {"t.csv": text})
    assert rows(parsed) == [
        ("x/a", "x/a", None, None, ("dog", "cat"), "train", "t.csv:2"),
        ("own", "b.c", 1.5, 4.0, (), "mine", "t.csv:3"),
        ("c_000002_end", "c", 2.0, None, ("a, b",), "val", "t.csv:4"),
        ("d_000000_000003", "d", 0.0, 3.0, ("e",), "test", "t.csv:5"),
    ]
    assert parsed.classes == ("a, b", "cat", "dog", "e")
    assert parsed.notes[1] == "1 clips have no labels; only prediction and multi-label tasks can use them"
    assert parsed.notes[0].endswith(
        "t.csv: clip is clip_id, source is video, start is start_seconds, end is end_seconds, labels is labels, "
        "split is split"
    )


@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_table_with_columns_of_other_names(parse, mark):
    text = f'tag{mark}id\n"a"{mark}007\nb{mark}1e5\n'
    parsed = parse("table", {"train.csv": text}, variant="source=id, labels=tag")
    assert [(clip.clip_id, clip.labels, clip.split) for clip in parsed.clips] == [
        ("007", ("a",), "train"),
        ("1e5", ("b",), "train"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (",a,train,,", "the source is empty"),
        ("../a.mp4,a,train,,", "path '../a.mp4' does not lead to a file inside the media folder"),
        ("x,a,,,", "the split is empty"),
        ("x,a|,train,,", "labels 'a|' contain an empty or a repeated one"),
        ("x,a|a,train,,", "labels 'a|a' contain an empty or a repeated one"),
        ('x,"[1]",train,,', "labels '[1]' start like a JSON list of names, but are not one"),
        ("x,a,train,4,2", "the segment ends at 2 s, which is not after its start at 4 s"),
        ("x,a,train,inf,", "time 'inf' is not a number of seconds"),
        ("x,c,train,,", "label 'c' is not in"),
    ],
)
def test_rows_of_tables_that_are_refused(parse, line, reason):
    text = "source_id,label,split,start,end\ny,a,test,,\n" + line
    ((where, message),) = refused(parse("table", {"t.csv": text}, {"list.txt": "a\nb\n"}))
    assert where == "t.csv:3" and message.startswith(reason)


def test_tables_that_are_refused(parse):
    with pytest.raises(
        UserError, match=r"column labels or label or class or category is missing; there are: 'video, tag'"
    ):
        parse("table", {"train.csv": "video,tag\na,b\n"})
    with pytest.raises(
        UserError, match="table: no variant 'x=y'; write ROLE=COLUMN, with ROLE one of: clip, source, start"
    ):
        parse("table", {"train.csv": "video,label\na,b\n"}, variant="x=y")
    with pytest.raises(UserError, match="no split in the file's name or in a column"):
        parse("table", {"t.csv": "video,label\na,b\n"})


# Damage -----------------------------------------------------------------------------------------------------------

CASES = {
    "audioset": ("eval.csv", SEGMENTS, CLASSES),
    "vggsound": ("v.csv", VGG, STAT),
    "epic-kitchens": ("train.csv", EPIC + ONE + TWO, {}),
    "kinetics400": ("train.csv", K400, {}),
    "kinetics-sounds": ("train.csv", K400, {}),
    "moments-in-time": ("trainingSet.csv", MIT, MOMENTS),
    "cremad": ("train.csv", "1001_DFA_ANG_XX,ANG\r\n1002_IEO_HAP_HI,HAP\r\n", {}),
    "ave": ("trainSet.txt", AVE, {}),
    "table": ("train.csv", 'video,labels,start,end\na.mp4,x|y,1,2\nb.mp4,"[""z""]",,\n', {}),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_is_reported_or_refused(write, name):
    """Whatever happens to a file, rows are refused or a UserError is raised; what is read is well formed."""
    file, text, lists = CASES[name]
    labels = [write(other, content) for other, content in lists.items()]
    whole = DATASETS[name].parse([write(file, text)], labels)
    assert len(whole.clips) == (1 if name == "kinetics-sounds" else 2) and not whole.refused
    chance = random.Random(name)
    noise = [*string.punctuation.encode(), *b"\r\n\t\0 0\xff\xc3\xe2"]
    for turn in range(150):
        data = bytearray(text.encode())
        for _ in range(chance.choice((1, 1, 2, 8))):
            at, to = sorted(chance.choices(range(len(data) + 1), k=2))
            match chance.randrange(4):
                case 0:
                    data[at : at + 1] = bytes([chance.choice(noise)])
                case 1:
                    data[at:to] = b""
                case 2:
                    data[at:at] = data[at:to]
                case 3:
                    data[at:at] = chance.randbytes(3) if turn % 2 else bytes([chance.choice(noise)])
        path = write(file, bytes(data))
        try:
            parsed = DATASETS[name].parse([path], labels)
        except UserError as error:
            assert str(error).startswith(str(path.parent)) and str(error).isprintable()
            continue
        assert all(reason and (where + reason).isprintable() for where, reason in parsed.refused)
        known = set(parsed.classes)
        for clip in parsed.clips:
            assert clip.source_id and clip.clip_id and known.issuperset(clip.labels)
            assert clip.split in ("train", "val", "test") and "".join(clip.labels).isprintable()
            assert clip.start_seconds is None or 0 <= clip.start_seconds < (clip.end_seconds or float("inf"))
