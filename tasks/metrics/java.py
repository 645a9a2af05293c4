"""The two Java programs of the E2E scorer, out of pycocoevalcap's package: Stanford's tokeniser and METEOR 1.5.

pycocoevalcap's own wrappers write into site-packages and wait for ever on a JVM that died; these do neither, and no
JVM outlives them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import IO

from tasks.metrics import Unavailable, need

HEAP = "-Xmx1G"  # METEOR's paraphrase table takes half of it
PATIENCE = 900.0  # seconds before a JVM counts as hanging; METEOR takes 5 to 20 to start, then milliseconds a pair
BREAKS = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")  # what Stanford's tokeniser takes for a line end
PUNCTUATION = frozenset(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--",
                         "...", ";"])


def tokens(lines: Sequence[str]) -> list[str]:
    """Every line's Penn Treebank tokens between blanks, lower-cased and without punctuation, as coco-caption's
    PTBTokenizer gives them; one JVM for all. Raises Unavailable without Java or pycocoevalcap, or if the JVM fails."""
    command = [*_java(), "-cp", _file("tokenizer/stanford-corenlp-3.4.1.jar"),
               "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    text = "\n".join(BREAKS.sub(" ", line) for line in lines)
    try:
        done = subprocess.run(command, input=text.encode(errors="replace"), capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"Java's tokeniser did not end within {PATIENCE:g} s") from error
    except OSError as error:
        raise Unavailable(f"Java does not start: {error}") from error
    if done.returncode:
        raise Unavailable(f"Java's tokeniser ended with {done.returncode}: {_gist(done.stdout + done.stderr)}")
    split = done.stdout.decode(errors="replace").split("\n")
    if len(split) != len(lines):
        raise Unavailable(f"Java's tokeniser gave {len(split):,} lines for {len(lines):,}")
    return [" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATION) for line in split]


class Meteor:
    """METEOR 1.5 with -l en -norm in a JVM of its own, which ends with the `with` block; it takes any number of sets.

    Raises Unavailable without Java or pycocoevalcap, or if the JVM fails.
    """

    def __enter__(self) -> Meteor:
        command = [*_java(), "-jar", _file("meteor/meteor-1.5.jar"), "-", "-", "-stdio", "-l", "en", "-norm"]
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # a pipe that nobody reads would stop the JVM
        try:
            self._jvm = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        except OSError as error:
            self._errors.close()
            raise Unavailable(f"Java does not start: {error}") from error
        self._timer = Timer(PATIENCE, self._jvm.kill)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._timer.cancel()
        self._jvm.kill()
        self._jvm.wait()
        for pipe in (self._jvm.stdout, self._jvm.stdin, self._errors):
            try:
                if pipe:
                    pipe.close()
            except OSError:  # what was still to be written to a JVM that is gone
                pass

    def score(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
        """METEOR (0 to 1) of tokenised outputs against tokenised references: of the set, and of each output."""
        return self.total(self.statistics(hypotheses, references))

    def statistics(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[str]:
        """What METEOR counts for each output: the slow part, of which any choice can be put together."""
        return [self._ask(" ||| ".join(["SCORE", *map(_clean, group), _clean(hypothesis)]))
                for hypothesis, group in zip(hypotheses, references, strict=True)]

    def total(self, statistics: Sequence[str]) -> tuple[float, list[float]]:
        """METEOR of a set by its outputs' statistics, and of each output."""
        each = [float(self._ask(" ||| ".join(["EVAL", *statistics])))]
        each += [float(self._read()) for _ in statistics]  # one each, then the set's
        return each.pop(), each

    def _ask(self, line: str) -> str:
        try:
            assert self._jvm.stdin
            self._jvm.stdin.write(BREAKS.sub(" ", line).encode(errors="replace") + b"\n")
            self._jvm.stdin.flush()
        except OSError:
            pass  # the JVM is gone; what it said last is read below
        return self._read()

    def _read(self) -> str:
        assert self._jvm.stdout
        said = self._jvm.stdout.readline()
        line = said.decode(errors="replace").strip()
        try:
            [float(number) for number in line.split() or ["nothing"]]
        except ValueError:
            raise Unavailable(self._why(said)) from None
        return line

    def _why(self, said: bytes) -> str:
        if said:
            return f"METEOR's Java said: {_gist(said)}"
        status = self._jvm.wait()  # it closed its output; the timer ends it if it does not end by itself
        if not self._timer.is_alive():
            return f"METEOR's Java did not end within {PATIENCE:g} s"
        self._errors.seek(0)
        return f"METEOR's Java ended with {status}: {_gist(self._errors.read())}"


def _java() -> list[str]:
    program = shutil.which("java")
    if not program:
        raise Unavailable("no java on the PATH; install a Java runtime, version 8 or newer "
                          "(apt-get install default-jre-headless)")
    # the collector for one core starts fastest; the encoding must not hang on the locale
    return [program, HEAP, "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8"]


def _file(path: str) -> str:
    found = Path(next(iter(need("pycocoevalcap").__path__))) / path
    if not found.is_file():
        raise Unavailable(f"pycocoevalcap has no {path}; pip install --force-reinstall pycocoevalcap==1.2")
    return str(found)


def _clean(text: str) -> str:
    return text.replace("|||", "").replace("  ", " ")  # the sign between METEOR's fields


def _gist(output: bytes) -> str:
    """The line that says what went wrong, and the next one: Java's own come between others and above a stack trace."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    first = next((place for place, line in enumerate(lines) if re.search("Error|Exception", line)), -2)
    said = [line for line in lines[first:][:2] if not line.startswith("at ")]
    return " ".join(said)[:200] or "no message"
