import io
import json
import logging
import re

import pytest

from proxy.runtime import logs
from proxy.runtime.logs import LogSettings, get_logger, origin, setup_logging


@pytest.fixture
def stream():
    """Where the log goes; the process's logging is as before afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield io.StringIO()
    logs.setup_logging(LogSettings())
    root.handlers[:] = handlers
    root.setLevel(level)


HEADER = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ (\w+\.py):(\d+)\] (.*)", re.DOTALL)


def written(stream):
    return HEADER.fullmatch(stream.getvalue().removesuffix("\n")).groups()


def test_a_message_is_logged_as_klog_does_with_the_caller_s_place(stream):
    setup_logging(LogSettings(), stream)
    get_logger("proxy.x").info("Synced", ipFamily="IPv4", numServices=3)
    letter, file, line, rest = written(stream)
    assert (letter, file, rest) == ("I", "test_logs.py", '"Synced" ipFamily="IPv4" numServices=3')
    assert int(line) > 30


@pytest.mark.parametrize(
    ("method", "letter"), [("info", "I"), ("warning", "W"), ("error", "E"), ("fatal", "F")]
)
def test_each_severity_has_its_letter(stream, method, letter):
    setup_logging(LogSettings(), stream)
    getattr(get_logger("proxy.x"), method)("Happened")
    assert written(stream)[::3] == (letter, '"Happened"')


def test_an_error_comes_first_and_keeps_its_text(stream):
    setup_logging(LogSettings(), stream)
    get_logger("proxy.x").error("Failed", err=OSError('no "such" thing'), port=80)
    assert written(stream)[3] == '"Failed" err="no \\"such\\" thing" port=80'


def test_verbose_messages_are_shown_up_to_the_verbosity(stream):
    setup_logging(LogSettings(verbosity=2), stream)
    log = get_logger("proxy.x")
    log.v(3).info("Hidden")
    log.v(2).info("Shown")
    assert written(stream)[3] == '"Shown"'
    assert (bool(log.v(2)), bool(log.v(3))) == (True, False)


def test_the_caller_of_a_verbose_message_is_named(stream):
    setup_logging(LogSettings(verbosity=2), stream)
    get_logger("proxy.x").v(2).info("Shown")
    assert written(stream)[1] == "test_logs.py"


def test_verbosity_can_change_while_running(stream):
    setup_logging(LogSettings(vmodule=(("fixed", 1),)), stream)
    log, fixed = get_logger("proxy.x"), get_logger("proxy.fixed")
    assert not log.v(4)
    logs.set_verbosity(4)
    assert log.v(4)
    assert not fixed.v(2)
    assert logs.verbosity() == 4


@pytest.mark.parametrize(
    ("pattern", "module", "shown"),
    [
        ("engine", "proxy.engine", True),
        ("eng*", "proxy.engine", True),
        ("eng?ne", "proxy.engine", True),
        ("engine", "proxy.engine.loop", False),
        ("proxy.engine.*", "proxy.engine.loop", True),
    ],
)
def test_vmodule_patterns_choose_modules(stream, pattern, module, shown):
    setup_logging(LogSettings(vmodule=((pattern, 5),)), stream)
    assert bool(get_logger(module).v(5)) is shown


def test_the_first_matching_vmodule_pattern_wins(stream):
    setup_logging(LogSettings(verbosity=9, vmodule=(("x", 1), ("*", 5))), stream)
    assert not get_logger("proxy.x").v(2)


def test_json_lines_have_the_keys_of_kubernetes(stream):
    setup_logging(LogSettings(json=True, verbosity=2), stream)
    log = get_logger("proxy.x")
    log.v(2).info("Synced", numServices=3)
    log.error("Failed", err=ValueError("why"))
    info, error = map(json.loads, stream.getvalue().splitlines())
    assert list(info) == ["ts", "caller", "msg", "v", "numServices"]
    assert re.fullmatch(r"runtime/test_logs\.py:\d+", info["caller"])
    assert info["v"] == 2
    assert isinstance(info["ts"], float)
    assert (error["msg"], error["err"], "v" in error) == ("Failed", "why", False)


def test_setting_up_again_replaces_the_previous_output(stream):
    other = io.StringIO()
    setup_logging(LogSettings(), stream)
    setup_logging(LogSettings(), other)
    get_logger("proxy.x").info("Once")
    assert (stream.getvalue(), other.getvalue().count("Once")) == ("", 1)


def test_a_broken_output_does_not_disturb_the_program(stream, capsys):
    setup_logging(LogSettings(), stream)
    stream.close()
    get_logger("proxy.x").info("Unheard")
    assert capsys.readouterr().err == ""


def test_a_value_that_cannot_be_shown_does_not_disturb_the_program(stream, capsys):
    class Hostile:
        def __str__(self):
            raise RuntimeError("no")

    setup_logging(LogSettings(), stream)
    get_logger("proxy.x").info("Odd", value=Hostile())
    assert capsys.readouterr().err == ""


def test_logs_go_to_standard_error(stream, capsys):
    setup_logging(LogSettings())
    get_logger("proxy.x").info("Where")
    captured = capsys.readouterr()
    assert (captured.out, '"Where"' in captured.err) == ("", True)


def test_the_origin_of_an_exception_is_its_innermost_place():
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")
    assert re.fullmatch(r"decoder\.py:\d+", origin(caught.value))
    assert origin(ValueError()) == ""
