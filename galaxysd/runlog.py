"""What a long command tells while it runs, and how it is asked to stop: a JSON-lines log, progress, and signals.

The log is appended line by line; a line torn by a crash is dropped when the log is opened again, and skipped by the reader.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TextIO

from galaxysd.errors import BadInput, Unavailable


class Log:
    """Appends one JSON object a line to `path`; each line is out of our hands when `write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)  # a line is one write
            self._drop_torn_line()
        except OSError as error:
            raise Unavailable(f"{self.path}: the log cannot be written ({error.strerror}); choose another folder") from error

    def _drop_torn_line(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)

    def write(self, **fields: Any) -> None:
        line = (json.dumps(_plain(fields), ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            advice = "free space and run the same command again"
            raise Unavailable(f"{self.path}: the log cannot be written ({error.strerror}); {advice}") from error

    def warn(self, text: str) -> None:
        """Logs a warning and says it."""
        self.write(warning=text)
        print(f"warning: {text}", file=sys.stderr, flush=True)

    def truncate(self, step: int) -> None:
        """Drops the rows past `step`: a run that resumes there writes them again."""
        rows = read(self.path)
        kept = [row for row in rows if row.get("step", 0) <= step]
        if len(kept) == len(rows):
            return
        self.close()
        temporary = self.path.with_name(f".tmp-{self.path.name}-{os.getpid()}")
        with Log(temporary) as shorter:
            for row in kept:
                shorter.write(**row)
        os.replace(temporary, self.path)
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Mute:
    """A log and a progress that nobody reads: those of a rank that does not lead."""

    def write(self, **fields: Any) -> None: ...

    def truncate(self, step: int) -> None: ...

    def update(self, more: float = 1, note: str = "") -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


def _plain(value: Any) -> Any:
    """A number that is not finite becomes its name: JSON has none, and the log of a failing run must still be readable."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> list[dict[str, Any]]:
    """Gives the rows of a log. A torn last line is left out; a broken line before it is damage, and named."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such log") from error
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is torn, or empty
        try:
            rows.append(json.loads(line))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BadInput(f"{path}: line {number} is not JSON ({error}); the log is damaged") from error
    return rows


class Progress:
    """A bar on a terminal, where tqdm is installed; elsewhere one plain line a minute, and one at the end."""

    def __init__(
        self, label: str, total: float | None = None, done: float = 0, unit: str = "img", every: float = 60.0, stream: TextIO | None = None
    ) -> None:
        self.label, self.total, self.done, self.unit, self.every = label, total, done, unit, every
        self.stream = sys.stderr if stream is None else stream
        self.start, self.began = done, time.monotonic()
        self._said = self.began
        self._bar = self._terminal_bar()

    def _terminal_bar(self) -> Any:
        if not self.stream.isatty():
            return None
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        return tqdm(desc=self.label, total=self.total, initial=self.done, unit=f" {self.unit}", file=self.stream, dynamic_ncols=True)

    def update(self, more: float = 1, note: str = "") -> None:
        """Counts `more` units; `note` stands beside the figures."""
        self.done += more
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(more)
        elif (now := time.monotonic()) - self._said >= self.every:
            self._said = now
            self._say(self._line(now, note))

    def _line(self, now: float, note: str) -> str:
        rate = (self.done - self.start) / max(now - self.began, 1e-9)
        parts = [f"{self.done:,.0f} {self.unit}"]
        if self.total:
            parts[0] = f"{self.done:,.0f} of {self.total:,.0f} {self.unit} ({self.done / self.total:.0%})"
        parts.append(f"{rate:,.3g} {self.unit}/s")
        if self.total and rate > 0 and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return f"{self.label}: " + ", ".join([*parts, *([note] if note else [])])

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """Ends the bar, or says how far it came and how long it took."""
        if self._bar is not None:
            self._bar.close()
            return
        seconds = time.monotonic() - self.began
        rate = (self.done - self.start) / max(seconds, 1e-9)
        self._say(f"{self.label}: {self.done:,.0f} {self.unit} after {duration(seconds)}, {rate:,.3g} {self.unit}/s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3 min 5 s, 2 h 10 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class StopSignals:
    """While it is entered, SIGTERM, SIGINT and SIGUSR1 ask for a clean stop: `requested` turns true, and the loop looks at it.

    A second Ctrl-C or SIGTERM, a second or more after the first, interrupts at once.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    # Some launchers signal the process and then its whole group: two signals in one moment are one request.
    ONE_REQUEST = 1.0

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet  # another process of the same command says it
        self.requested = False
        self.reason = ""
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; elsewhere the request comes from whoever set `requested`.
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._handle) for each in self.SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if not self.requested:
            self.requested, self.reason, self._since = True, name, now
            # Not print: a handler may run in the middle of one.
            if not self.quiet:
                os.write(2, f"\n{name}: stopping at the next safe point; once more stops at once\n".encode())
        elif number != signal.SIGUSR1 and now - self._since >= self.ONE_REQUEST:
            raise KeyboardInterrupt
