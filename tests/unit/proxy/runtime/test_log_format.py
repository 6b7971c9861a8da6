import enum
import json
import logging
import os
import sys

import pytest

from proxy.runtime.log_format import JsonFormatter, KlogFormatter, LogFields, quote, value_text


class Colour(enum.Enum):
    RED = "red"


class Odd:
    def __str__(self):
        return "odd one"


def record(message, *args, level=logging.INFO, exc_info=None, **extra):
    made = logging.LogRecord("n", level, "/a/b/file.py", 7, message, args, exc_info)
    made.created = 1_767_323_045.25
    for name, value in extra.items():
        setattr(made, name, value)
    return made


def test_a_value_that_contains_itself_is_shown_as_text():
    value = []
    value.append(value)
    assert value_text(value) == '"[[...]]"'


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", '"plain"'),
        ("", '""'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash\ttab", r'"back\\slash\ttab"'),
        ("bell\a esc\x1b del\x7f", r'"bell\a esc\x1b del\x7f"'),
        ("grüße 日本 🙂", '"grüße 日本 🙂"'),
        ("no\u00a0break\u200b", r'"no\u00a0break\u200b"'),
        ("\U000e0001", r'"\U000e0001"'),
    ],
)
def test_strings_are_quoted_with_go_s_escapes(value, text):
    assert quote(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.5, "0.5"),
        (True, "true"),
        (None, "null"),
        (["192.0.2.1"], '["192.0.2.1"]'),
        ({}, "{}"),
        (("a", 1), '["a",1]'),
        (Colour.RED, '"red"'),
        (OSError("lost"), '"lost"'),
        (KeyError(), '"KeyError"'),
        (Odd(), '"odd one"'),
        (["\udc80"], r'["\udc80"]'),
        ([OSError("lost")], '["lost"]'),
        ("two\nlines", "<\n\ttwo\n\tlines\n >"),
        ("one\n", "<\n\tone\n >"),
    ],
)
def test_values_are_printed_as_klog_does(value, text):
    assert value_text(value) == text


@pytest.mark.usefixtures("utc")
def test_the_header_has_time_process_and_place():
    line = KlogFormatter().format(record("Up", kv=LogFields({"port": 1})))
    assert line == f'I0102 03:04:05.250000 {os.getpid():>7} file.py:7] "Up" port=1'


def test_the_standard_library_s_extra_works_too():
    made = record("Up", kv={"port": 1})
    assert KlogFormatter().format(made).endswith('] "Up" port=1')
    assert json.loads(JsonFormatter().format(made))["port"] == 1


def test_records_of_libraries_are_bare_text_on_one_line():
    line = KlogFormatter().format(record("retry %s\nnow", "x", level=logging.WARNING))
    assert line.startswith("W")
    assert line.endswith("file.py:7] retry x\\nnow")
    assert json.loads(JsonFormatter().format(record("retry %s", "x")))["msg"] == "retry x"


def test_an_exception_of_a_library_is_one_key_and_no_trace():
    try:
        raise OSError("lost")
    except OSError:
        made = record("failed", exc_info=sys.exc_info())
    assert KlogFormatter().format(made).endswith('] failed err="lost"')


def test_json_is_one_line_whatever_the_values():
    values = {"text": "two\nlines", "odd": Odd(), "err": OSError("lost"), "set": {1}}
    line = JsonFormatter().format(record("M", level=logging.ERROR, kv=LogFields(values)))
    assert "\n" not in line
    assert json.loads(line) == {
        "ts": 1_767_323_045_250.0,
        "caller": "b/file.py:7",
        "msg": "M",
        "text": "two\nlines",
        "odd": "odd one",
        "err": "lost",
        "set": [1],
    }
