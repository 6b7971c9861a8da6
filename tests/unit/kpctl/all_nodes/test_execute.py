"""Exec by websocket: binary-safe, complete or refused, and what can go wrong told apart."""

import os
import time

import pytest

from kpctl.all_nodes.execute import Container, run_in
from proxy.sources.credentials import ApiLocation, Credentials
from proxy.sources.failures import ApiError, ConnectionFailedError
from tests.support.exec_apiserver import ExecApi, Output

WHERE = Container("kube-system", "kube-proxy-a", "kube-proxy")


@pytest.fixture
def execute(tmp_path):
    outputs = []
    with ExecApi() as api:
        api.add_node("a", lambda _: outputs[0])
        credentials = Credentials(ApiLocation(str(api.kubeconfig(tmp_path / "config"))))

        def call(output, *argv, within_s=10.0, where=WHERE):
            outputs[:] = [output]
            return run_in(credentials, where, argv or ("true",), time.monotonic() + within_s)

        call.api = api
        yield call


def test_output_is_what_was_printed_byte_for_byte(execute):
    data = os.urandom(300_000) + b"\x00\xff\r\n"
    ran = execute(Output(data, b"a warning"), "nft", "-j", "list", "ruleset")
    assert (ran.stdout, ran.stderr, ran.code) == (data, "a warning", 0)
    assert execute.api.ran == [("kube-proxy-a", ("nft", "-j", "list", "ruleset"))]


def test_a_dump_of_tens_of_megabytes_takes_seconds_at_most(execute):
    data = bytes(40 << 20)
    started = time.monotonic()
    assert execute(Output(data), within_s=60).stdout == data
    assert time.monotonic() - started < 20


def test_a_programs_exit_code_is_told(execute):
    ran = execute(Output(b"", b"iptables-save: you must be root\n", 4), "iptables-save", "-c")
    assert (ran.code, ran.absent) == (4, False)
    expected = "iptables-save -c ended with exit code 4: iptables-save: you must be root"
    assert ran.why(("iptables-save", "-c")) == expected


@pytest.mark.parametrize(
    "output",
    [
        Output(absent=True),
        Output(stderr=b'exec: "ipvsadm": executable file not found in $PATH\n', code=127),
        Output(b"OCI runtime exec failed: stat /bin/x: no such file or directory", code=126),
    ],
)
def test_a_program_that_the_image_lacks_is_told_from_one_that_fails(output, execute):
    ran = execute(output, "ipvsadm", "-Sn")
    assert ran.absent
    assert ran.why(("ipvsadm", "-Sn")) == "the image has no ipvsadm (package ipvsadm)"


def test_no_such_file_said_by_a_program_is_its_own_failure(execute):
    ran = execute(Output(stderr=b"ls: /proc/net/ip_vs: No such file or directory\n", code=1))
    assert not ran.absent


def test_a_stream_that_breaks_off_is_never_a_short_dump(execute):
    with pytest.raises(ConnectionFailedError, match="dropped"):
        execute(Output(b"*nat\n:KUBE-SERVICES - [0:0]\n", cut=True))


def test_a_program_that_hangs_is_given_up_at_the_deadline(execute):
    started = time.monotonic()
    with pytest.raises(ConnectionFailedError, match="in kube-system/kube-proxy-a"):
        execute(Output(hang_s=30), within_s=0.3)
    assert time.monotonic() - started < 5


def test_refusals_are_the_servers_own_words(execute):
    with pytest.raises(ApiError, match="404") as caught:
        execute(Output(), where=Container("kube-system", "absent", "x"))
    assert caught.value.message == 'pods "absent" not found'
    execute.api.forbidden = {"get pods/exec"}
    with pytest.raises(ApiError, match="403") as caught:
        execute(Output())
    assert 'cannot get resource "pods/exec"' in caught.value.message
    execute.api.forbidden = set()
    with pytest.raises(ApiError) as caught:
        execute(Output(runtime_error="error dialing backend: no route to host"))
    assert caught.value.message == "error dialing backend: no route to host"


def test_no_server_is_a_connection_that_failed(execute):
    execute.api.server.server_close()
    execute.api.server.shutdown()
    with pytest.raises(ConnectionFailedError):
        execute(Output())


def test_credentials_that_have_expired_are_renewed_once(execute):
    execute.api.unauthorized = 1
    assert execute(Output(b"x")).stdout == b"x"
    execute.api.unauthorized = 2
    with pytest.raises(ApiError, match="401"):
        execute(Output(b"x"))
