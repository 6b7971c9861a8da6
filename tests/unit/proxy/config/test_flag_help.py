"""The help text of kpctl run."""

import re

from proxy.config.flag_help import render_run_help
from proxy.config.flag_table import FLAGS


def test_every_flag_is_explained_once() -> None:
    lines = render_run_help().splitlines()
    entries = [line for line in lines if re.match(r"[* ] (-\w, |    )--", line)]
    for flag in FLAGS:
        named = [line for line in entries if f"--{flag.name}" in line.replace("[", " ").split()]
        assert len(named) == 1, flag.name


def test_the_text_fits_a_wide_terminal_and_shows_defaults() -> None:
    text = render_run_help()
    assert max(map(len, text.splitlines())) <= 100
    assert "(default 24h0m0s)" in text
    assert "(default false)" not in text


def test_flags_that_count_beside_a_file_are_marked() -> None:
    text = render_run_help()
    assert "*     --master TEXT" in text
    assert "      --proxy-mode TEXT" in text
    assert "* -v, --v N" in text
