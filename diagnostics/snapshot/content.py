"""Bytes of a file → text: byte order marks, other encodings, and Markdown around a dump."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

# cilium-bugtool: "# iptables-save -c", an empty line, and the output between fences.
_MARKDOWN = re.compile(r"\A# [^\n]*\n+```[^\n]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_MARKS = (
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
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    note = "" if encoding.startswith("utf-8") else f"was {encoding} text"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        text = data.decode(encoding, "replace")
        note = f"byte {error.start} is no {encoding} text; such bytes were replaced"
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
    if match := _MARKDOWN.match(text):
        text = match[1]
    return Decoded(text, note)
