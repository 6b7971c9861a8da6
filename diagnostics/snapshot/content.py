"""
Bytes of a file → text: byte order marks, other encodings, and what tools write around a dump.

cilium-bugtool may put Markdown around the output of a command, and the error of one that failed
below it; calicoctl's files begin with what kubectl says on stderr.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

# cilium-bugtool: "# iptables-save -c", an empty line, and the output between fences.
_MARKDOWN = re.compile(r"\A# [^\n]*\n+```[^\n]*\n(.*?)\n?```\s*\Z", re.DOTALL)
# A line of kubectl's own before or after what a program in a pod printed.
_KUBECTL = (
    r"(?:Unable to use a TTY - [^\n]*|Defaulted container [^\n]*|"
    r"command terminated with exit code \d+|> Error while running [^\n]*)"
)
_BEFORE = re.compile(rf"\A(?:{_KUBECTL}\n)+")
_AFTER = re.compile(rf"(?:^{_KUBECTL}\n*)+\Z", re.MULTILINE)
_SAMPLE_BYTES = 4096
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text; ``note`` says what was wrong with its bytes, "" if nothing was."""

    text: str
    note: str = ""


def decode(data: bytes) -> Decoded:
    """Return the text in *data*; bytes that are no UTF-8 become U+FFFD, and are told of."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), _unmarked(data))
    note = "" if encoding.startswith("utf-8") else f"was {encoding} text"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        text = data.decode(encoding, "replace")
        note = f"byte {error.start} is no {encoding} text; such bytes were replaced"
    if "\0" in text:
        note = f"{note}; " * bool(note) + "has NULs, which were left out: it is damaged"
        text = text.replace("\0", "")
    return Decoded(_bare(text), note)


def _unmarked(data: bytes) -> str:
    """Return the encoding of text without a mark: ASCII in UTF-16 has a NUL in each pair."""
    sample = data[:_SAMPLE_BYTES]
    half = len(sample) // 2
    if half and sample[1::2].count(0) > 0.9 * half:
        return "utf-16-le"
    if half and sample[0::2].count(0) > 0.9 * half:
        return "utf-16-be"
    return "utf-8"


def _bare(text: str) -> str:
    """Return *text* without what the tools that collected it wrote around it."""
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    if match := _MARKDOWN.match(text):
        text = match[1]
    # A failed command has nothing but these lines: they stay, to be told of.
    begin, end = _BEFORE.match(text), _AFTER.search(text[-2048:])
    if not begin and not end:
        return text
    inner = text[begin.end() if begin else 0 : len(text) - (len(end[0]) if end else 0)]
    return inner if inner.strip() else text
