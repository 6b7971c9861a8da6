"""Tests of proxy.kernel.command against real programs."""

import sys
import time

import pytest

from proxy.kernel.command import (
    PACKAGES,
    PIPE,
    CommandError,
    Completed,
    Denied,
    TimedOut,
    ToolMissing,
    find_tool,
    run,
    spawn,
)


def test_output_and_status_of_a_program_are_returned():
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    assert run([sys.executable, "-c", script], check=False) == Completed("out\n", "err\n", 3)


def test_text_reaches_standard_input():
    assert run(["cat"], stdin="ä\n").stdout == "ä\n"


def test_without_text_standard_input_is_empty():
    assert run(["cat"]).stdout == ""


def test_bytes_that_are_not_utf8_are_replaced():
    script = r"import sys; sys.stdout.buffer.write(b'a\xffb')"
    assert run([sys.executable, "-c", script]).stdout == "a\ufffdb"


def test_a_failure_names_command_status_and_what_it_said():
    with pytest.raises(CommandError) as raised:
        run(["sh", "-c", "echo broken >&2; exit 4"])
    assert raised.value.returncode == 4
    assert raised.value.stderr == "broken\n"
    assert str(raised.value) == "sh -c 'echo broken >&2; exit 4': exit status 4: broken"


def test_a_long_complaint_is_shortened_in_the_message_only():
    with pytest.raises(CommandError) as raised:
        run([sys.executable, "-c", "import sys; sys.exit('x' * 5000)"])
    assert len(str(raised.value)) < 1200
    assert len(raised.value.stderr) == 5001


def test_a_missing_tool_names_its_package(monkeypatch):
    monkeypatch.setitem(PACKAGES, "no-such-tool", "some-package")
    with pytest.raises(ToolMissing, match="no-such-tool is not installed") as raised:
        run(["no-such-tool", "list"])
    assert raised.value.hint == "install the package some-package"
    assert raised.value.returncode is None


def test_a_missing_tool_of_no_known_package_says_what_to_do():
    with pytest.raises(ToolMissing, match="install it or correct PATH"):
        run(["no-such-tool"])


def test_a_file_that_is_no_program_is_denied(tmp_path):
    path = tmp_path / "data"
    path.write_text("no program")
    with pytest.raises(Denied, match="may not be executed"):
        run([str(path)])


def test_a_missing_permission_is_told_apart_by_what_the_tool_says():
    with pytest.raises(Denied, match="CAP_NET_ADMIN"):
        run(["sh", "-c", "echo 'RTNETLINK answers: Operation not permitted' >&2; exit 2"])


def test_tools_are_asked_to_speak_english(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert run(["sh", "-c", "echo $LC_ALL"]).stdout == "C\n"


def test_a_program_that_hangs_is_killed():
    before = time.monotonic()
    with pytest.raises(TimedOut, match=r"did not end within 0\.1 s"):
        run(["sleep", "60"], timeout_s=0.1)
    assert time.monotonic() - before < 10


def test_a_program_that_a_signal_ends_is_reported_so():
    with pytest.raises(CommandError, match="was killed by signal 9") as raised:
        run(["sh", "-c", "kill -9 $$"])
    assert raised.value.returncode == -9


def test_a_spawned_program_runs_on_its_own():
    with spawn(["sh", "-c", "read line; echo got $line"], stdin=PIPE, stdout=PIPE) as process:
        out, _ = process.communicate(b"it\n", 10)
    assert out == b"got it\n"


def test_a_spawned_program_leads_a_session_of_its_own():
    script = "import os; print(os.getsid(0) == os.getpid())"
    with spawn([sys.executable, "-c", script], stdout=PIPE) as process:
        assert process.communicate(timeout=10)[0] == b"True\n"


def test_administration_tools_are_found_when_path_lacks_their_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("proxy.kernel.command._SBIN", (str(tmp_path / "sbin"),))
    (tmp_path / "sbin").mkdir()
    tool = tmp_path / "sbin" / "tool"
    tool.write_text("#!/bin/sh\necho found\n")
    tool.chmod(0o755)
    assert find_tool("tool") == str(tool)
    assert run(["tool"]).stdout == "found\n"
