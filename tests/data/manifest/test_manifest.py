"""Manifests: what is read in which spelling, by which line a mistake is told, writing, and what workers share."""

import csv
import json
import multiprocessing
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mbt_lightning.data.manifest import formats
from mbt_lightning.data.manifest import shared_table as table
from mbt_lightning.data.manifest.formats import COLUMNS
from mbt_lightning.data.manifest.manifest import ManifestRow, read_manifest, write_manifest
from mbt_lightning.data.records import Example
from mbt_lightning.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Write a file of this name and text; returns its path."""

    def to(text: str, name: str = "manifest.csv", **kwargs) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode(**kwargs))
        return path

    return to


def only(manifest) -> Example:
    (examples,) = manifest.splits.values()
    (example,) = examples
    return example


CSV = """clip_id,video,audio,start_seconds,end_seconds,labels,split
a,clips/a.mp4,,,,dog|cat,train
b,clips/b.mp4,sound/b.wav,1.5,4,dog,train
c,,sound/c.wav,2,,,test
"""


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


JSONL = jsonl(
    {"clip_id": "a", "video": "clips/a.mp4", "labels": ["dog", "cat"], "split": "train"},
    {"clip_id": "b", "video": "clips/b.mp4", "audio": "sound/b.wav", "start_seconds": 1.5, "end_seconds": 4}
    | {"labels": ["dog"], "split": "train"},
    {"clip_id": "c", "audio": "sound/c.wav", "start_seconds": "2", "end_seconds": None, "labels": [], "split": "test"},
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("manifest.csv", CSV),
        ("manifest.jsonl", JSONL),
        ("crlf.csv", CSV.replace("\n", "\r\n")),
        ("crlf.jsonl", JSONL.replace("\n", "\r\n")),
        ("bom.csv", "\ufeff" + CSV),
        ("bom.jsonl", "\ufeff" + JSONL),
        ("blank.csv", CSV + "\n\n"),
        ("blank.jsonl", JSONL.replace("\n", "\n\n")),
        ("extra.csv", "".join(line + ",x\n" for line in CSV.splitlines())),
    ],
)
def test_every_spelling_gives_the_same(write, tmp_path, name, text) -> None:
    manifest = read_manifest(write(text, name))
    root = str(tmp_path)
    assert manifest.splits == {
        "train": [
            Example("a", f"{root}/clips/a.mp4", f"{root}/clips/a.mp4", 0.0, None, ("dog", "cat")),
            Example("b", f"{root}/clips/b.mp4", f"{root}/sound/b.wav", 1.5, 4.0, ("dog",)),
        ],
        "test": [Example("c", None, f"{root}/sound/c.wav", 2.0, None, ())],
    }
    assert manifest.classes == ("cat", "dog") and manifest.groups == () and manifest.left_out == {}


class TestPaths:
    def test_media_root(self, write, tmp_path) -> None:
        path = write("video,labels,split\na.mp4,dog,train\n")
        media = tmp_path.parent / "media"
        assert only(read_manifest(path, media_root=media)).video == str(media / "a.mp4")
        assert only(read_manifest(str(path), media_root=str(media))).video == str(media / "a.mp4")

    def test_absolute_paths_stay(self, write, tmp_path) -> None:
        path = write(f"video,labels,split\n{tmp_path}/a.mp4,dog,train\n")
        assert only(read_manifest(path, media_root="elsewhere")).video == f"{tmp_path}/a.mp4"

    def test_the_media_path_is_the_default_id(self, write) -> None:
        assert only(read_manifest(write("video,labels,split\nclips/a.mp4,dog,train\n"))).clip_id == "clips/a.mp4"
        assert only(read_manifest(write("audio,labels,split\na.wav,dog,train\n"))).clip_id == "a.wav"

    @pytest.mark.parametrize("number", [0, 7, -5])
    def test_ids_like_numbers(self, write, number) -> None:
        row = {"clip_id": number, "video": "a.mp4", "labels": ["dog"], "split": "train"}
        assert only(read_manifest(write(jsonl(row), "m.jsonl"))).clip_id == str(number)
        text = f"clip_id,video,labels,split\n{number},a.mp4,dog,train\n"
        assert only(read_manifest(write(text))).clip_id == str(number)

    def test_ids_keep_their_zeros(self, write) -> None:
        assert only(read_manifest(write("clip_id,video,labels,split\n007,a.mp4,dog,train\n"))).clip_id == "007"


class TestLabels:
    @pytest.mark.parametrize(
        ("cell", "labels"),
        [
            ("dog", ("dog",)),
            ("dog|cat", ("dog", "cat")),
            (" dog | cat |", ("dog", "cat")),
            ('"Male speech, man speaking|Dog"', ("Male speech, man speaking", "Dog")),
            ('"[""dog"", ""a|b""]"', ("dog", "a|b")),
            ("[]", ()),
            ("", ()),
            ("[3]", ("3",)),
        ],
    )
    def test_in_csv(self, write, cell, labels) -> None:
        assert only(read_manifest(write(f"video,labels,split\na.mp4,{cell},train\n"))).labels == labels

    def test_numbers_in_jsonl(self, write) -> None:
        """As in a JSON list of a CSV cell, and as they stand in a class list."""
        write("name\n3\n12\n", "classes.csv")
        row = {"video": "a.mp4", "labels": [3], "split": "train"}
        assert only(read_manifest(write(jsonl(row), "m.jsonl"))).labels == ("3",)


class TestClasses:
    manifest = "video,labels,split\na.mp4,dog,train\n"

    def test_give_the_order_and_the_groups(self, write) -> None:
        write("name,group\ndog,animal\ncar,thing\ncat,animal\n", "classes.csv")
        manifest = read_manifest(write(self.manifest))
        assert manifest.classes == ("dog", "car", "cat") and manifest.groups == ("animal", "thing", "animal")

    def test_of_another_place(self, write) -> None:
        write("name\ncat\n", "classes.csv")  # not this one
        other = write('\ufeffname,mid\r\n"Dog, barking",/m/1\r\ndog,/m/2\r\n', "other/list.csv")
        manifest = read_manifest(write(self.manifest), classes=other)
        assert manifest.classes == ("Dog, barking", "dog") and manifest.groups == ()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("label\ndog\n", r"classes\.csv: column name is missing; there are: label"),
            ("", r"classes\.csv: column name is missing; there are: none"),
            ("name\n", r"classes\.csv: the class list is empty"),
            ("name,group\n,pets\ndog,pets\n", r"classes\.csv: a class has no name"),
            ("name\ntimpani, tympany\n", r"classes\.csv:2: the row does not have 1 columns as the header"),
            ('name\n"dog\n', r"classes\.csv:2: unexpected end of data; check the quotes"),
            ("name\ndog\ncat\ndog\n", r"classes\.csv: class 'dog' occurs twice"),
            ("name\ncat\ndoge\n", r"manifest\.csv:2: label 'dog' is not in .*classes\.csv; did you mean 'doge'\?"),
            ("name\nxylophone\n", r"manifest\.csv:2: label 'dog' is not in .*classes\.csv$"),
        ],
    )
    def test_wrong_lists_are_refused(self, write, text, message) -> None:
        write(text, "classes.csv")
        with pytest.raises(UserError, match=message):
            read_manifest(write(self.manifest))

    def test_missing(self, write, tmp_path) -> None:
        with pytest.raises(
            UserError, match=r"nowhere\.csv: no such class list; give a \.csv file with a column `name`"
        ):
            read_manifest(write(self.manifest), classes=tmp_path / "nowhere.csv")


def test_rows_that_are_not_ok_are_left_out_and_counted(write) -> None:
    """Whatever else is in them."""
    text = """clip_id,video,labels,split,status
a,a.mp4,dog,train,ok
b,b.mp4,dog,train,
c,,no such label,,missing
d,d.mp4,dog,train,missing
a,e.mp4,dog,train,damaged
"""
    write("name\ndog\n", "classes.csv")
    manifest = read_manifest(write(text))
    assert [e.clip_id for e in manifest.splits["train"]] == ["a", "b"]
    assert manifest.left_out == {"missing": 2, "damaged": 1}


def test_a_split_without_clips(write) -> None:
    manifest = read_manifest(write(CSV))
    assert [e.clip_id for e in manifest.split("train")] == ["a", "b"]
    with pytest.raises(
        UserError, match=r"split 'val' has no clips; the manifest's splits are: train \(2\), test \(1\)"
    ):
        manifest.split("val")
    with pytest.raises(UserError, match="split 'val' has no clips; the manifest's splits are: none"):
        read_manifest(write("video,labels,split\n", "empty.csv")).split("val")


class TestDigest:
    def test_says_what_was_read(self, write) -> None:
        first = read_manifest(write(CSV)).digest
        assert read_manifest(write(CSV)).digest == first and len(first) == 16
        assert read_manifest(write(CSV.replace("dog", "dot"))).digest != first

    def test_covers_the_class_list(self, write) -> None:
        digests = set()
        for classes in ("name\ndog\ncat\n", "name\ncat\ndog\n", "name\ndog\ncat\nowl\n"):
            write(classes, "classes.csv")
            digests.add(read_manifest(write(CSV)).digest)
        assert len(digests) == 3

    def test_covers_the_groups(self, write) -> None:
        """Scores are given by group: other groups are other data."""
        digests = set()
        for groups in ("ab", "ba"):
            write("name,group\ndog,{}\ncat,{}\n".format(*groups), "classes.csv")
            digests.add(read_manifest(write(CSV)).digest)
        assert len(digests) == 2


HEAD = "clip_id,video,labels,split,start_seconds,end_seconds\na,a.mp4,dog,train,,\n"
WRONG_CSV = {
    "no split column": ("video,labels\na.mp4,dog\n", r"m\.csv: column split is missing; there are: video, labels"),
    "no columns": ("", r"m\.csv: column labels, split is missing; there are: none"),
    "no media column": ("labels,split\ndog,train\n", "column video or audio is missing; there are: labels, split"),
    "no media": (HEAD + "b,,dog,train,,\n", r"m\.csv:3: neither video nor audio names a file"),
    "no split": (HEAD + "b,b.mp4,dog,,,\n", r"m\.csv:3: split is empty; write train, val or test"),
    "short row": (HEAD + "b,b.mp4\n", r"m\.csv:3: the row does not have 6 columns as the header"),
    "long row": (HEAD + "b,b.mp4,dog,train,,,Male, adult\n", r"m\.csv:3: the row does not have 6 columns"),
    "id twice": (
        HEAD + "b,b.mp4,dog,train,,\na,c.mp4,dog,val,,\n",
        r"m\.csv:4: clip_id 'a' is already used at .*m\.csv:2",
    ),
    "nan": (HEAD + "b,b.mp4,dog,train,nan,\n", r"m\.csv:3: start_seconds is 'nan'; write seconds, 0 or more"),
    "infinite": (HEAD + "b,b.mp4,dog,train,,inf\n", r"m\.csv:3: end_seconds is 'inf'; write seconds"),
    "negative": (HEAD + "b,b.mp4,dog,train,-1,\n", r"m\.csv:3: start_seconds is '-1'; write seconds, 0 or more"),
    "no number": (HEAD + "b,b.mp4,dog,train,0:30,\n", r"m\.csv:3: start_seconds is '0:30'"),
    "reversed": (HEAD + "b,b.mp4,dog,train,4,2.5\n", r"m\.csv:3: end_seconds 2\.5 is not after start_seconds 4"),
    "empty segment": (HEAD + "b,b.mp4,dog,train,0,0\n", r"m\.csv:3: end_seconds 0 is not after start_seconds 0"),
    "a quote that swallows a row": (
        HEAD + 'b,b.mp4,"dog,train,,\nc,c.mp4,"cat",train,,\n',
        r"m\.csv:4: ',' expected after '\"'; check the quotes",
    ),
    "open quote": (HEAD + 'b,b.mp4,"dog,train,,\n', r"m\.csv:3: unexpected end of data; check the quotes"),
    "huge cell": (HEAD + f"b,b.mp4,{'x' * 200_000},train,,\n", r"m\.csv:3: field larger than field limit"),
    "deep list": (HEAD + f"b,b.mp4,{'[' * 90_000},train,,\n", r"m\.csv:3: labels .* is none: nested too deeply"),
    "broken list": (HEAD + "b,b.mp4,[dog,train,,\n", r"m\.csv:3: labels '\[dog' begins like a JSON list, but is none"),
}
ROW = {"video": "a.mp4", "labels": ["dog"], "split": "train"}
WRONG_JSONL = {
    "no JSON": (jsonl(ROW) + "{video: a}\n", r"m\.jsonl:2: not a JSON object: "),
    "no object": (jsonl(ROW) + "\n[1, 2]\n", r"m\.jsonl:3: not a JSON object, but list"),
    "no labels": (jsonl(ROW, {"video": "b.mp4", "split": "val"}), r"m\.jsonl:2: column labels is missing"),
    "labels no list": (jsonl(ROW | {"labels": "dog"}), r"m\.jsonl:1: labels is 'dog'; write a list of class names"),
    "labels null": (jsonl(ROW | {"labels": None}), r"m\.jsonl:1: labels is None; write a list"),
    "split null": (jsonl(ROW | {"split": None}), r"m\.jsonl:1: split is empty"),
    "bad time": (jsonl(ROW | {"start_seconds": [1]}), r"m\.jsonl:1: start_seconds is \[1\]; write seconds"),
    "nan": (jsonl(ROW | {"end_seconds": float("nan")}), r"m\.jsonl:1: end_seconds is nan"),
    "huge number": (jsonl(ROW | {"end_seconds": 10**400}), r"m\.jsonl:1: end_seconds is 10000"),
    "truth": (jsonl(ROW | {"end_seconds": True}), r"m\.jsonl:1: end_seconds is True; write seconds"),
    "label without name": (jsonl(ROW, ROW | {"clip_id": "b", "labels": [""]}), r"m\.jsonl:2: a label is empty"),
    "too deep": ("[" * 90_000 + "\n", r"m\.jsonl:1: not a JSON object: nested too deeply"),
    "too many digits": ('{"video": ' + "9" * 5_000 + "}\n", r"m\.jsonl:1: not a JSON object: Exceeds the limit"),
}


@pytest.mark.parametrize(("text", "message"), WRONG_CSV.values(), ids=WRONG_CSV)
def test_mistakes_in_csv_are_told_by_line(write, text, message) -> None:
    with pytest.raises(UserError, match=message):
        read_manifest(write(text, "m.csv"))


@pytest.mark.parametrize(("text", "message"), WRONG_JSONL.values(), ids=WRONG_JSONL)
def test_mistakes_in_jsonl_are_told_by_line(write, text, message) -> None:
    with pytest.raises(UserError, match=message):
        read_manifest(write(text, "m.jsonl"))


def test_wrong_files_are_refused(write, tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"nowhere\.csv: no such manifest; give a \.parquet, \.jsonl or \.csv file, or `d"
    ):
        read_manifest(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match=r"a manifest ends in \.parquet, \.jsonl, \.csv, not '\.txt'"):
        read_manifest(write("", "m.txt"))
    with pytest.raises(UserError, match=r"column video occurs twice"):
        read_manifest(write("video,labels,split,video\na.mp4,dog,train,b.mp4\n"))


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_file_that_is_not_utf8_is_refused(write, name) -> None:
    """As Excel saves it outside of the English-speaking world."""
    text = "video,labels,split\ncafé.mp4,dog,train\n" if name == "m.csv" else '{"video": "café.mp4"}\n'
    with pytest.raises(UserError, match=rf"{name}: not UTF-8"):
        read_manifest(write(text, name, encoding="latin-1"))


# Parquet -------------------------------------------------------------------------------------------------------------


def parquet(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


class TestParquet:
    def test_by_other_hands(self, tmp_path) -> None:
        """Other types of text, numbers as names, only some of the columns and others besides."""
        path = parquet(
            tmp_path / "m.parquet",
            clip_id=[7, 8],
            video=pa.array(["a.mp4", "b.mp4"], pa.large_string()),
            labels=pa.array([["dog"], []], pa.large_list(pa.dictionary(pa.int8(), pa.string()))),
            split=pa.array(["train", "train"]).dictionary_encode(),
            start_seconds=pa.array([1, None], pa.int32()),
            audio=pa.nulls(2),
            size=[1, 2],
        )
        assert read_manifest(path, media_root="m").splits == {
            "train": [
                Example("7", "m/a.mp4", "m/a.mp4", 1.0, None, ("dog",)),
                Example("8", "m/b.mp4", "m/b.mp4", 0.0, None, ()),
            ]
        }

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"split": None}, r"m\.parquet: column split is missing; there are: video, labels, end_seconds"),
            ({"video": [1, 2]}, r"m\.parquet: column video is of type int64; write texts"),
            ({"labels": ["dog", "cat"]}, r"m\.parquet: column labels is of type string; write lists of texts"),
            ({"end_seconds": ["1", "2"]}, r"m\.parquet: column end_seconds is of type string; write numbers"),
            ({"end_seconds": [1.0, -2.0]}, r"m\.parquet: row 2: end_seconds is -2\.0; write seconds, 0 or more"),
            ({"end_seconds": [float("nan"), 1.0]}, r"m\.parquet: row 1: end_seconds is nan; write seconds"),
            (
                {"video": ["a.mp4", "a.mp4"]},
                r"m\.parquet: row 2: clip_id 'a\.mp4' is already used at .*m\.parquet: row 1",
            ),
            ({"labels": [["dog"], None]}, r"m\.parquet: row 2: labels is None; write a list of class names"),
            ({"labels": [["dog"], ["cat", None]]}, r"m\.parquet: row 2: labels is \['cat', None\]; write a list of"),
        ],
    )
    def test_mistakes_are_told_by_row(self, tmp_path, changes, message) -> None:
        columns = {"video": ["a.mp4", "b.mp4"], "labels": [["dog"], ["cat"]], "split": ["train", "val"]}
        columns |= {"end_seconds": [1.0, None]} | changes
        path = parquet(tmp_path / "m.parquet", **{name: cells for name, cells in columns.items() if cells})
        with pytest.raises(UserError, match=message):
            read_manifest(path)

    def test_damage(self, tmp_path) -> None:
        path = parquet(tmp_path / "m.parquet", video=["a.mp4"], labels=[["dog"]], split=["train"])
        whole = path.read_bytes()
        for content in (b"", b"PAR1", whole[:-20], b"video,labels,split\n", whole.replace(b"video", b"vid\xd8o")):
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"m\.parquet: not a Parquet file, or damaged: "):
                read_manifest(path)

    def test_a_column_that_stands_there_twice(self, tmp_path) -> None:
        columns = {"video": ["a.mp4"], "labels": [["dog"]], "split": ["train"], "audio": ["a.wav"]}
        table = pa.table(columns).rename_columns(["video", "labels", "split", "video"])
        pq.write_table(table, tmp_path / "m.parquet")
        with pytest.raises(UserError, match=r"m\.parquet: column video occurs twice"):
            read_manifest(tmp_path / "m.parquet")

    @pytest.mark.parametrize(
        "metadata", ['{"classes": "dog"}', '{"classes": [1]}', '{"classes": ["dog"], "groups": 1}']
    )
    def test_metadata_that_makes_no_sense(self, tmp_path, metadata) -> None:
        table = pa.table({"video": ["a.mp4"], "labels": [["dog"]], "split": ["train"]})
        pq.write_table(table.replace_schema_metadata({"mbt_lightning": metadata}), tmp_path / "m.parquet")
        with pytest.raises(UserError, match=r"m\.parquet: the metadata's (classes|groups) are not a list of texts"):
            read_manifest(tmp_path / "m.parquet")


# Writing -------------------------------------------------------------------------------------------------------------

NAMES = ("dog", "Male speech, man speaking", "a|b", " spaced", "[bracket", "käse")
ROWS = [
    ManifestRow("007", "-v1", 30.0, 40.5, "v/1.mp4", None, 0.0, 10.5, ["dog", NAMES[1]], "train", "ok", "train.csv:4"),
    ManifestRow("b,\n", "v2", None, None, "v/2.mp4", "v/2.wav", None, None, NAMES[2:3], "train"),
    ManifestRow("c", "v3", 0.1 + 0.2, 1e6, None, None, None, None, ["dog"], "train", "missing", "train.csv:6"),
    ManifestRow("d", "v4", None, None, None, "v/4.wav", 1.0, None, NAMES[3:], "test"),
    ManifestRow("e", "v5", None, None, "v/5.mp4", None, None, None, [], "test", "ok", ""),
    ManifestRow("f", None, None, None, None, None, None, None, ["dog"], "val", "pointer"),
]
SUFFIXES = ("parquet", "jsonl", "csv")


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path) -> Path:
    return tmp_path / f"m.{request.param}"


class TestWriting:
    def test_what_is_written_is_read(self, path) -> None:
        about = {"dataset": "vggsound", "variant": None, "options": {"media": "clips"}}
        written = write_manifest(path, iter(ROWS), NAMES, groups="ppqqrr", about=about)
        manifest = read_manifest(path, media_root="m")
        assert manifest.splits == {
            "train": [
                Example("007", "m/v/1.mp4", "m/v/1.mp4", 0.0, 10.5, NAMES[:2]),
                Example("b,\n", "m/v/2.mp4", "m/v/2.wav", 0.0, None, NAMES[2:3]),
            ],
            "test": [
                Example("d", None, "m/v/4.wav", 1.0, None, NAMES[3:]),
                Example("e", "m/v/5.mp4", "m/v/5.mp4", 0.0, None, ()),
            ],
        }
        assert (manifest.classes, manifest.groups) == (NAMES, tuple("ppqqrr"))
        counts = {"train": {"ok": 2, "missing": 1}, "test": {"ok": 2}, "val": {"pointer": 1}}
        assert manifest.counts == written["counts"] == manifest.metadata["counts"] == counts
        assert manifest.coverage == {"train": (2, 3), "test": (2, 2), "val": (0, 1)}
        assert manifest.left_out == {"missing": 1, "pointer": 1}
        assert manifest.digest == written["hash"] == manifest.metadata["hash"]
        assert {key: manifest.metadata[key] for key in about} == about
        assert not list(path.parent.glob("*.new"))

    def test_the_columns_stand_there_by_their_names(self, path) -> None:
        write_manifest(path, ROWS, NAMES)
        if path.suffix == ".parquet":
            columns, first = pq.read_schema(path).names, pq.read_table(path).to_pylist()[0]
        elif path.suffix == ".jsonl":
            first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
            columns = list(first)
        else:
            with open(path, newline="", encoding="utf-8") as file:
                first = next(iter(csv.DictReader(file)))
            columns, first["labels"] = list(first), first["labels"].split("|")
        assert columns == COLUMNS.names == list(ManifestRow._fields)
        assert (first["clip_id"], first["labels"], first["annotation"]) == ("007", list(NAMES[:2]), "train.csv:4")
        assert float(first["segment_end_seconds"]) == 40.5

    def test_metadata_of_text_lies_beside(self, tmp_path) -> None:
        write_manifest(tmp_path / "m.csv", ROWS, NAMES, about={"dataset": "ave"})
        assert {file.name for file in tmp_path.iterdir()} == {"m.csv", "m.csv.meta.json", "classes.csv"}
        meta = json.loads((tmp_path / "m.csv.meta.json").read_text())
        assert meta.keys() == {"dataset", "counts", "hash"} and meta["dataset"] == "ave"
        write_manifest(tmp_path / "m.jsonl", ROWS, NAMES)  # the same class list
        with pytest.raises(UserError, match=r"classes\.csv: is another class list; write into a new folder, or"):
            write_manifest(tmp_path / "m.csv", [], ["owl"])

    def test_a_file_appears_when_it_is_complete(self, path) -> None:
        write_manifest(path, ROWS, NAMES)
        before = path.read_bytes()

        def interrupted():
            yield from ROWS[:3]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_manifest(path, interrupted(), NAMES)
        assert path.read_bytes() == before and not list(path.parent.glob("*.new"))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"labels": ["dogs"]}, r"row 2: label 'dogs' is not in the class list; did you mean 'dog'\?"),
            ({"labels": "dog"}, r"row 2: labels is 'dog'; write a list of class names"),
            ({"clip_id": "007"}, r"row 2: clip_id '007' is already used at .*row 1"),
            ({"start_seconds": 2.0, "end_seconds": 1.0}, r"row 2: end_seconds 1 is not after start_seconds 2"),
            ({"segment_end_seconds": float("inf")}, r"row 2: segment_end_seconds is inf; write seconds, 0 or more"),
            ({"video": Path("v.mp4")}, r"row 2: video is PosixPath\('v\.mp4'\); write a text"),
            ({"video": "\ud83d.mp4"}, r"row 2: video '\\ud83d\.mp4' holds half a character"),
            ({"video": None}, r"row 2: neither video nor audio names a file"),
        ],
    )
    def test_mistakes_are_told_by_row(self, path, changes, message) -> None:
        wrong = ManifestRow("b", None, None, None, "b.mp4", None, None, None, ["dog"], "train")._replace(**changes)
        with pytest.raises(UserError, match=message):
            write_manifest(path, [ROWS[0], wrong], NAMES)
        assert not list(path.parent.iterdir())

    def test_class_lists_that_make_no_sense(self, path) -> None:
        with pytest.raises(UserError, match="class 'dog' occurs twice"):
            write_manifest(path, ROWS, ["dog", "dog"])
        with pytest.raises(UserError, match="there are 1 classes and 2 groups"):
            write_manifest(path, ROWS, ["dog"], ["a", "b"])


class TestHash:
    def test_is_of_the_rows_whatever_the_format_and_the_batches(self, tmp_path, monkeypatch) -> None:
        digests = set()
        for batch_rows in (1, 2, 100):
            for each in (formats, table):
                monkeypatch.setattr(each, "BATCH_ROWS", batch_rows)
            for suffix in SUFFIXES:
                path = tmp_path / f"m.{suffix}"
                digests |= {write_manifest(path, ROWS, NAMES)["hash"], read_manifest(path).digest}
        assert len(digests) == 1

    @pytest.mark.parametrize("column", COLUMNS.names)
    def test_covers_every_column(self, tmp_path, column) -> None:
        others = {"labels": ["dog"], "status": "missing", "segment_end_seconds": 33.5}
        other = others.get(column, 3.5 if column.endswith("_seconds") else "other")
        rows = [ROWS[0]._replace(clip_id=None, start_seconds=None), *ROWS[1:]]
        changed = [rows[0]._replace(**{column: other}), *rows[1:]]
        digests = {write_manifest(tmp_path / "m.parquet", r, NAMES)["hash"] for r in (rows, changed, rows[::-1])}
        assert len(digests) == 3

    def test_tells_cells_apart_that_read_the_same_in_a_row(self, tmp_path) -> None:
        digests = set()
        for labels in (["ab", "c"], ["a", "bc"]):
            rows = [ROWS[0]._replace(labels=labels)]
            digests.add(write_manifest(tmp_path / "m.parquet", rows, ["ab", "c", "a", "bc"])["hash"])
        assert len(digests) == 2

    def test_of_edited_rows_is_warned_of(self, tmp_path, caplog) -> None:
        path = tmp_path / "m.csv"
        write_manifest(path, ROWS, NAMES)
        read_manifest(path)
        assert not caplog.text
        path.write_text(path.read_text(encoding="utf-8").replace("v/1.mp4", "v/9.mp4"), encoding="utf-8")
        digest = read_manifest(path).digest
        assert f"rows or classes have changed since it was written; its hash is now {digest}" in caplog.text


def test_the_class_list_that_is_named_wins_over_the_files_own(write, tmp_path) -> None:
    write_manifest(tmp_path / "m.parquet", ROWS[:1], NAMES)
    write("name\nowl\n", "classes.csv")  # of another manifest
    assert read_manifest(tmp_path / "m.parquet").classes == NAMES
    mine = write(
        "name\nMale speech, man speaking\nx\ndog\n".replace("Male", '"Male').replace("ing\n", 'ing"\n'), "mine.csv"
    )
    manifest = read_manifest(tmp_path / "m.parquet", classes=mine)
    assert manifest.classes == (NAMES[1], "x", "dog") and manifest.splits["train"][0].labels == ("dog", NAMES[1])


# The examples of a split, and what they cost -------------------------------------------------------------------------


def many(number: int):
    """Rows like AudioSet's."""
    for i in range(number):
        video, split = f"{i % 997:03}/-{i:010}_30000_40000.mp4", "test" if i % 50 == 1 else "train"
        labels = [f"class {i % 527}", f"class {(i * 7 + 1) % 527}"]
        yield ManifestRow(
            f"-{i:010}", f"{i:010}", 30.0, 40.0, video, None, 0.0, 10.0, labels, split, "ok", f"a.csv:{i}"
        )


CLASSES = [f"class {i}" for i in range(527)]


@pytest.fixture
def clips(tmp_path, monkeypatch) -> table.Clips:
    """The training clips of a table that is mapped into memory, though it is small."""
    monkeypatch.setattr(table, "SHARED_BYTES", 0)
    for each in (formats, table):
        monkeypatch.setattr(each, "BATCH_ROWS", 64)
    monkeypatch.setenv("MBT_CACHE", str(tmp_path / "cache"))
    write_manifest(tmp_path / "m.parquet", many(500), CLASSES)
    return read_manifest(tmp_path / "m.parquet", media_root="m").split("train")


class TestClips:
    def test_are_as_a_list(self, clips) -> None:
        rows = [row for row in many(500) if row.split == "train"]
        wanted = [Example(r.clip_id, f"m/{r.video}", f"m/{r.video}", 0.0, 10.0, tuple(r.labels)) for r in rows]
        assert len(clips) == 490 and list(clips) == wanted == [clips[i] for i in range(490)]
        assert clips == wanted and clips != wanted[:-1] and clips != wanted[:-1] + wanted[:1] and clips != "x"
        for part in (slice(70, 130), slice(None, None, -3), slice(5, 5)):
            assert list(clips[part]) == wanted[part] and clips[part][::2] == wanted[part][::2]
        assert clips[-1] == wanted[-1] and wanted[7] in clips and clips.index(wanted[7]) == 7
        for index in (490, -491):
            with pytest.raises(IndexError):
                clips[index]

    def test_labels_without_objects(self, clips) -> None:
        for part in (clips, clips[100:200:7], clips[:0]):
            places, classes = part.labelled()
            pairs = [(i, CLASSES.index(label)) for i, clip in enumerate(part) for label in clip.labels]
            assert list(zip(places.tolist(), classes.tolist(), strict=True)) == pairs

    def test_combinations_of_labels(self, clips) -> None:
        for part in (clips, clips[100:200:7], clips[:0]):
            firsts: dict[tuple[str, ...], int] = {}
            for place, clip in enumerate(part):
                firsts.setdefault(clip.labels, place)
            assert list(part.unique_label_sets()) == [(place, labels) for labels, place in firsts.items()]

    def test_travel_by_name(self, clips) -> None:
        (file,) = clips.table.path.parent.glob("*.arrow")
        text = pickle.dumps(clips)
        assert clips.table.path == file and len(text) < 12_000 < file.stat().st_size
        assert pickle.loads(text) == clips
        for method in ("fork", "spawn"):
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.apply(list, (clips[400:],)) == list(clips[400:])

    def test_find_the_same_file_again(self, clips, tmp_path) -> None:
        file = clips.table.path
        before = file.stat().st_ino
        os.utime(file, (0, 0))
        stale = file.with_name("v1-0.arrow")
        stale.touch()
        os.utime(stale, (0, 0))
        assert read_manifest(tmp_path / "m.parquet", media_root="m").split("train").table.path == file
        assert file.stat().st_ino == before and time.time() - file.stat().st_mtime < 60
        assert not stale.exists()  # nobody has opened it for a month

    def test_a_folder_without_room(self, clips, tmp_path, monkeypatch) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("MBT_CACHE", str(tmp_path / "file"))
        with pytest.raises(UserError, match=r"name a folder with room for the table by MBT_CACHE"):
            read_manifest(tmp_path / "m.parquet")

    def test_small_tables_need_no_file(self, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv("MBT_CACHE", str(tmp_path / "cache"))
        write_manifest(tmp_path / "m.parquet", ROWS, NAMES)
        clips = read_manifest(tmp_path / "m.parquet").split("train")
        assert clips.table.path is None and pickle.loads(pickle.dumps(clips)) == clips
        assert not (tmp_path / "cache").exists()


MEASURE = """
import sys
from torch.utils.data import DataLoader, Dataset
from mbt_lightning.data.dataset import ClipDataset
from mbt_lightning.data.manifest.manifest import read_manifest

class Reads(Dataset):
    def __init__(self, clips):
        self.clips = clips
    def __len__(self):
        return 40
    def __getitem__(self, i):
        for k in range(i, len(self.clips), 40):
            self.clips[k]
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024

if __name__ == "__main__":
    clips = read_manifest(sys.argv[1]).split("train")
    for examples in ([], clips):
        loader = DataLoader(Reads(examples), None, num_workers=1, multiprocessing_context=sys.argv[2])
        print(max(loader))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_million_rows(tmp_path, monkeypatch) -> None:
    """Written in at most 60 s and 2 GB on one core, read in seconds; a worker grows by at most 100 MB.

    Its resident memory, that is, in which shared pages count too.
    """
    path, number = tmp_path / "m.parquet", 2_000_000
    start = time.process_time()
    write_manifest(path, many(number), CLASSES)
    assert time.process_time() - start < 60
    monkeypatch.setenv("MBT_CACHE", str(tmp_path / "cache"))
    start = time.process_time()
    assert len(read_manifest(path).split("train")) == number * 98 // 100
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2e6
    (tmp_path / "measure.py").write_text(MEASURE)
    for method in ("fork", "spawn"):
        arguments = [sys.executable, str(tmp_path / "measure.py"), str(path), method]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        empty, full = map(float, done.stdout.split())
        print(f"{method}: {full - empty:.0f} MB above {empty:.0f}")
        assert full - empty < 100, method
