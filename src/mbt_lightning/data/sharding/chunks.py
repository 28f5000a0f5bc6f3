"""Where `mbt shard` keeps re-encoded clips: as files, or gathered in litdata chunks. Both outlive a kill.

A clip is named by the number of its row. A clip that counts as done is complete: files get their name when they are.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mbt_lightning.disk import replacing

CHUNK_BYTES = 64_000_000
"""Records are gathered into chunks of about this size, which is litdata's own custom."""


class Place:
    """A folder of re-encoded clips, in the form of a subclass.

    Args:
        folder: the folder of the data set.
        suffix: of the files that workers write.
    """

    store = "files"
    """The kind of store that training reads it by."""

    def __init__(self, folder: Path, suffix: str):
        self.folder, self.suffix = folder, suffix
        self.done = {int(path.stem) for path in (folder / "clips").glob(f"*/*{suffix}")}

    @property
    def num_done(self) -> int:
        """How many clips are done."""
        return len(self.done)

    def is_done(self, number: int) -> bool:
        """Whether a clip is done."""
        return number in self.done

    def path(self, number: int) -> Path:
        """The file that a worker writes; a thousand in a folder."""
        return self.folder / "clips" / f"{number // 1000:04d}" / f"{number:07d}{self.suffix}"

    def take(self, number: int) -> None:
        """A worker has written a clip."""
        self.done.add(number)

    def finish(self) -> None:
        """All clips are there that will be."""

    def name(self, number: int) -> str:
        """What the manifest calls the media of a clip."""
        raise NotImplementedError


class Loose(Place):
    """A file for each clip."""

    def __init__(self, folder: Path):
        super().__init__(folder, ".mp4")

    def name(self, number: int) -> str:
        """The file, from the folder of the data set."""
        return self.path(number).relative_to(self.folder).as_posix()


class Chunks(Place):
    """Records in litdata chunks: gathered as they come, so that the disk holds them twice for a moment only.

    Beside `chunk-0-3.bin` is `chunk-0-3.json` with litdata's entry about it and the numbers of its clips in order;
    a chunk without that file is not done. The index of all, which litdata wants, is written at the end.
    """

    store = "jpeg-shards"

    def __init__(self, folder: Path):
        super().__init__(folder, ".record")
        self.shards = folder / "shards"
        self.shards.mkdir(exist_ok=True)
        shutil.rmtree(self.shards / "unfinished", ignore_errors=True)
        self.chunks: list[dict[str, Any]] = []
        while (file := self.about(len(self.chunks))).is_file():
            self.chunks.append(json.loads(file.read_text(encoding="utf-8")))
        gathered = [number for chunk in self.chunks for number in chunk["clips"]]
        for number in self.done & set(gathered):
            self.path(number).unlink()
        self.loose = {number: self.path(number).stat().st_size for number in sorted(self.done - set(gathered))}
        self.done |= set(gathered)

    def about(self, chunk: int) -> Path:
        """The file beside a chunk."""
        return self.shards / f"chunk-0-{chunk}.json"

    def take(self, number: int) -> None:
        """Gather records when they are enough for a chunk."""
        super().take(number)
        self.loose[number] = self.path(number).stat().st_size
        if sum(self.loose.values()) >= CHUNK_BYTES:
            self.gather()

    def gather(self) -> None:
        """Make a chunk of the records that are in none yet."""
        from litdata.streaming.writer import BinaryWriter

        unfinished = self.shards / "unfinished"
        number, clips = len(self.chunks), list(self.loose)
        writer = BinaryWriter(str(unfinished), chunk_size=len(clips), chunk_index=number)
        for place, clip in enumerate(clips):
            writer[place] = self.path(clip).read_bytes()
        writer.done()
        index, chunk = (next(unfinished.glob(pattern)) for pattern in ("*.index.json", "*.bin"))
        found = json.loads(index.read_text(encoding="utf-8"))
        entry = {**found["chunks"][0], "filename": f"chunk-0-{number}.bin"}
        chunk.replace(self.shards / entry["filename"])
        self.chunks.append({"entry": entry, "config": found["config"], "clips": clips})
        with replacing(self.about(number)) as file:
            file.write_text(json.dumps(self.chunks[-1]), encoding="utf-8")
        shutil.rmtree(unfinished)
        for clip in clips:
            self.path(clip).unlink()
        self.loose.clear()

    def finish(self) -> None:
        """Gather the rest and write litdata's index."""
        if self.loose:
            self.gather()
        if self.chunks:
            index = {"chunks": [chunk["entry"] for chunk in self.chunks], "config": self.chunks[0]["config"]}
            with replacing(self.shards / "index.json") as file:
                file.write_text(json.dumps(index), encoding="utf-8")
        shutil.rmtree(self.folder / "clips", ignore_errors=True)
        clips = [clip for chunk in self.chunks for clip in chunk["clips"]]
        self.places = {clip: place for place, clip in enumerate(clips)}

    def name(self, number: int) -> str:
        """The folder of the chunks and the record's number there."""
        return f"shards#{self.places[number]}"
