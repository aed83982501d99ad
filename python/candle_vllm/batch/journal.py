"""Journal: the output file of a batch, to which whole lines are appended, and which says itself what is done.

A line's `id` tells the number of the input's line that it answers. What the system was given is safe from the death of
the process at once; `sync` makes it safe from that of the machine. Must not know how lines are answered.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from array import array
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from candle_vllm.batch.answer import Answered
from candle_vllm.batch.lines import Ask, Problem
from candle_vllm.errors import CandleVllmError

__all__ = ["Journal", "JournalError"]

_HEAD = b'{"id":"batch_req_'
_LINE = re.compile(
    re.escape(_HEAD) + rb'([1-9][0-9]{0,14})","custom_id":(null|"(?:[^"\\]|\\.)*"),"response":(\{"status_code":200,)?'
)


class JournalError(CandleVllmError):
    """The output cannot be written, or is not what an earlier run on the same input left."""


class Journal:
    """The output at `path`, made or gone on with; one process at a time. `longest` is more than any line's number.

    A last line that is torn is cut off. Raises JournalError for whatever else is not a line of this class's, and leaves
    the file as it is then.
    """

    def __init__(self, path: Path, longest: int) -> None:
        self._path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"))
        # For each line of the input a checksum of the custom_id that was answered; 0 = not answered.
        self._done = array("I")
        self.count = 0
        """Lines in the file."""
        self.failed = 0
        """Of these, lines without a good answer."""
        self._dirty = False
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise JournalError(f"{path} is being written by another run-batch") from None
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
            try:
                self._read(longest)
            except BaseException:
                os.close(self._file)
                raise
        except BaseException:
            self._lock.release()
            raise

    def _read(self, longest: int) -> None:
        whole = 0
        with self._path.open("rb") as file:
            for place, text in enumerate(file, 1):
                if not text.endswith(b"\n"):
                    self._cut(whole, text)
                    break
                self._take(place, text, longest)
                whole += len(text)

    def _cut(self, whole: int, torn: bytes) -> None:
        if not (torn.startswith(_HEAD) or _HEAD.startswith(torn) or not torn.strip(b"\0")):
            raise JournalError(f"{self._path}: its last line is not one of run-batch's; give another file")
        os.ftruncate(self._file, whole)

    def _take(self, place: int, text: bytes, longest: int) -> None:
        found = _LINE.match(text)
        number = int(found[1]) if found else 0
        if found is None or number >= longest:
            raise JournalError(f"{self._path}: line {place} is not one of run-batch's on this input; give another file")
        custom_id = json.loads(found[2])
        if not self._mark(number, custom_id):
            raise JournalError(f"{self._path}: line {place} answers line {number} of the input once more")
        self.failed += found[3] is None

    def _mark(self, number: int, custom_id: str | None) -> bool:
        if number >= len(self._done):
            self._done.extend([0] * (number + 1024 - len(self._done)))
        if self._done[number]:
            return False
        self._done[number] = _checksum(custom_id)
        self.count += 1
        return True

    def holds(self, number: int, custom_id: str | None) -> bool:
        """Whether a line of the input is answered. Raises JournalError where another one stood in its place."""
        found = self._done[number] if number < len(self._done) else 0
        if found and found != _checksum(custom_id):
            raise JournalError(
                f"{self._path} holds answers to another input: line {number} had another custom_id than {custom_id!r}"
            )
        return bool(found)

    def write(self, ask: Ask, said: Answered | Problem) -> None:
        """Append the line of one request, all of it or nothing. Raises JournalError where it cannot be written."""
        text = _written(ask, said)
        before = os.fstat(self._file).st_size
        try:
            left = memoryview(text)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            os.ftruncate(self._file, before)
            raise JournalError(
                f"cannot write {self._path}: {error.strerror}. It holds {self.count} whole lines; when there is room "
                "again, the same command goes on with the rest"
            ) from error
        self._mark(ask.number, ask.custom_id)
        self.failed += not (isinstance(said, Answered) and said.status == 200)
        self._dirty = True

    def sync(self) -> None:
        """Have all that was written on the disk. Any thread."""
        if self._dirty:
            self._dirty = False
            try:
                os.fsync(self._file)
            except OSError as error:
                raise JournalError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Let others have the file."""
        os.close(self._file)
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.sync()
        finally:
            self.close()


def _checksum(custom_id: str | None) -> int:
    return zlib.crc32((custom_id or "").encode("utf-8", "surrogatepass")) or 1


def _written(ask: Ask, said: Answered | Problem) -> bytes:
    if isinstance(said, Problem):
        end = f'"response":null,"error":{json.dumps({"code": said.code, "message": said.message})}'
    else:
        reply = f'"status_code":{said.status},"request_id":{json.dumps(said.request_id)},"body":{said.body}'
        end = f'"response":{{{reply}}},"error":null'
    return f'{_HEAD.decode()}{ask.number}","custom_id":{json.dumps(ask.custom_id)},{end}}}\n'.encode()
