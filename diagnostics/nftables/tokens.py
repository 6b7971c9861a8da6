"""Splits the text of a rule into words, and walks over them."""

from __future__ import annotations

import re
from collections.abc import Collection

# A quoted string and a range of two keep their quotes; a comma ends a word only before white space.
_TOKEN = re.compile(r'"[^"]*"(?:-"[^"]*")?|[{}()]|,(?=\s|$)|(?:[^\s{}()",]|,(?!\s|$))+|"')


class Unparsed(Exception):
    """The words at hand are no statement or expression that this parser knows."""


class Words:
    """The words of a rule with a position among them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._spans = [match.span() for match in _TOKEN.finditer(text)]
        self.words = [text[start:end] for start, end in self._spans]
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        """Return a word without taking it; "" behind the end."""
        place = self.at + ahead
        return self.words[place] if place < len(self.words) else ""

    def take(self) -> str:
        """Return the next word."""
        word = self.peek()
        if not word:
            raise Unparsed
        self.at += 1
        return word

    def skip(self, word: str) -> bool:
        """Take the next word if it is this one."""
        if self.peek() != word:
            return False
        self.at += 1
        return True

    def expect(self, *words: str) -> None:
        """Take exactly these words."""
        for word in words:
            if not self.skip(word):
                raise Unparsed

    def one_of(self, words: Collection[str]) -> str:
        """Take a word that must be one of these."""
        if self.peek() not in words:
            raise Unparsed
        return self.take()

    def integer(self) -> int:
        """Take a decimal or hexadecimal number."""
        try:
            return int(self.take(), 0)
        except ValueError:
            raise Unparsed from None

    def string(self) -> str:
        """Take a word without its quotes."""
        return unquote(self.take())

    def between(self, start: int, end: int) -> str:
        """Return the text of the words from one position to another."""
        if start >= end:
            return ""
        return self.text[self._spans[start][0] : self._spans[end - 1][1]]

    @property
    def done(self) -> bool:
        """Whether all words were taken."""
        return self.at >= len(self.words)


def unquote(word: str) -> str:
    """Return a word without quotes around it."""
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] == '"' else word
