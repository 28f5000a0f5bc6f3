"""Reading manifests: what is accepted in which spelling, and the line that every mistake is told by."""

import json
from pathlib import Path

import pytest

from mbt_lightning.data.manifest import read_manifest
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
            ("name\ndog\ncat\ndog\n", r"classes\.csv: class 'dog' stands there twice"),
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
        r"m\.csv:4: clip_id 'a' stands at .*m\.csv:2 already",
    ),
    "nan": (HEAD + "b,b.mp4,dog,train,nan,\n", r"m\.csv:3: start_seconds is 'nan'; write seconds, 0 or more"),
    "infinite": (HEAD + "b,b.mp4,dog,train,,inf\n", r"m\.csv:3: end_seconds is 'inf'; write seconds"),
    "negative": (HEAD + "b,b.mp4,dog,train,-1,\n", r"m\.csv:3: start_seconds is '-1'; write seconds, 0 or more"),
    "no number": (HEAD + "b,b.mp4,dog,train,0:30,\n", r"m\.csv:3: start_seconds is '0:30'"),
    "reversed": (HEAD + "b,b.mp4,dog,train,4,2.5\n", r"m\.csv:3: end_seconds 2\.5 is not after start_seconds 4"),
    "empty segment": (HEAD + "b,b.mp4,dog,train,0,0\n", r"m\.csv:3: end_seconds 0 is not after start_seconds 0"),
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
    with pytest.raises(UserError, match=r"nowhere\.csv: no such manifest; give a \.csv or \.jsonl file, or `demo`"):
        read_manifest(tmp_path / "nowhere.csv")
    with pytest.raises(UserError, match=r"a manifest ends in \.csv or \.jsonl, not '\.parquet'"):
        read_manifest(write("", "m.parquet"))


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_file_that_is_not_utf8_is_refused(write, name) -> None:
    """As Excel saves it outside of the English-speaking world."""
    text = "video,labels,split\ncafé.mp4,dog,train\n" if name == "m.csv" else '{"video": "café.mp4"}\n'
    with pytest.raises(UserError, match=rf"{name}: not UTF-8"):
        read_manifest(write(text, name, encoding="latin-1"))
