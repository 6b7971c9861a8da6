"""Where the API server is and who we are."""

import json
import socket
import stat
import sys
from pathlib import Path

import pytest

from proxy.sources.credentials import ApiLocation, Credentials
from proxy.sources.failures import CredentialsError
from proxy.sources.source import ConfigurationError
from tests.support.following import kubeconfig

SERVER = "https://10.0.0.1:6443"


class Clock:
    now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def no_pod_and_no_proxy(monkeypatch):
    for name in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)


def plugin(tmp_path, status, code=0):
    """Write an exec plugin that prints *status* and counts its runs; return its user entry."""
    script = tmp_path / "plugin"
    answer = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": status,
    }
    text = json.dumps(answer) if status is not None else "no json"
    script.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        f"runs = pathlib.Path({str(tmp_path / 'runs')!r})\n"
        "count = len(runs.read_text()) if runs.exists() else 0\n"
        "runs.write_text('x' * (count + 1))\n"
        f"print({text!r}.replace('NUMBER', str(count + 1)))\n"
        f"sys.exit({code} and 'login first')\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    command = {"apiVersion": answer["apiVersion"], "command": str(script)}
    return json.dumps({"exec": command})


def runs(tmp_path):
    return len((tmp_path / "runs").read_text())


# What is judged before anything is asked


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty or no mapping"),
        ("[]", "empty or no mapping"),
        ("a: [", "no YAML"),
        ("{}", "current-context is not set"),
        ("current-context: x", "there is no context 'x' in contexts"),
        ("current-context: x\ncontexts: [{name: x, context: {}}]", "current context's cluster"),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\nclusters: 3",
            "there is no cluster 'c' in clusters",
        ),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: c}}]\n"
            "clusters: [{name: c, cluster: {}}]",
            "cluster 'c' has no server",
        ),
        (
            "current-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
            "clusters: [{name: c, cluster: {server: 'https://a'}}]",
            "there is no user 'u' in users",
        ),
    ],
)
def test_a_broken_kubeconfig_is_refused_with_its_path_and_what_is_missing(tmp_path, text, part):
    path = tmp_path / "config"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=f"kubeconfig {path}.*{part}"):
        Credentials(ApiLocation(kubeconfig=str(path))).check()


def test_a_missing_kubeconfig_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file or directory; check --kubeconfig"):
        Credentials(ApiLocation(kubeconfig=str(tmp_path / "none"))).check()


def test_outside_of_a_pod_something_must_be_given():
    with pytest.raises(ConfigurationError, match="use --kubeconfig, --master or --manifests"):
        Credentials(ApiLocation()).check()


def test_a_master_needs_nothing_else():
    credentials = Credentials(ApiLocation(master="10.0.0.9:8080"))
    credentials.check()

    access = credentials.current()

    assert (access.host, access.headers) == ("http://10.0.0.9:8080", {})


def test_a_master_replaces_the_server_of_the_kubeconfig(tmp_path):
    location = kubeconfig(tmp_path / "config", SERVER, "{token: abc}")
    access = Credentials(ApiLocation(location.kubeconfig, "https://10.0.0.9/")).current()

    assert access.host == "https://10.0.0.9"
    assert access.headers == {"Authorization": "Bearer abc"}


# Credentials that never expire


def test_a_token_is_sent_as_bearer(tmp_path):
    access = Credentials(kubeconfig(tmp_path / "config", SERVER, "{token: abc}")).current()

    assert access.host == SERVER
    assert access.headers == {"Authorization": "Bearer abc"}
    assert access.expires is None


def test_a_user_without_credentials_is_anonymous(tmp_path):
    assert Credentials(kubeconfig(tmp_path / "config", SERVER)).current().headers == {}


def test_certificate_files_are_found_beside_the_kubeconfig(tmp_path):
    for name in ("ca.crt", "me.crt", "me.key"):
        (tmp_path / name).write_text("pem")
    user = "{client-certificate: me.crt, client-key: me.key}"
    location = kubeconfig(tmp_path / "config", SERVER, user, ", certificate-authority: ca.crt")

    pool = Credentials(location).current().pool

    assert pool.connection_pool_kw["ca_certs"] == str(tmp_path / "ca.crt")
    assert pool.connection_pool_kw["cert_file"] == str(tmp_path / "me.crt")
    assert pool.connection_pool_kw["key_file"] == str(tmp_path / "me.key")


def test_a_missing_certificate_file_is_named(tmp_path):
    location = kubeconfig(tmp_path / "config", SERVER, "{}", ", certificate-authority: ca.crt")

    with pytest.raises(CredentialsError, match=r"ca\.crt"):
        Credentials(location).current()


def test_connections_notice_a_dead_server_within_half_a_minute(tmp_path):
    access = Credentials(ApiLocation(master="127.0.0.1:1")).current()
    options = {
        (level, name): v for level, name, v in access.pool.connection_pool_kw["socket_options"]
    }

    assert options[socket.IPPROTO_TCP, socket.TCP_NODELAY] == 1
    assert options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1
    probes_s = (
        options[socket.IPPROTO_TCP, socket.TCP_KEEPIDLE]
        + options[socket.IPPROTO_TCP, socket.TCP_KEEPINTVL]
        * options[socket.IPPROTO_TCP, socket.TCP_KEEPCNT]
    )
    assert probes_s <= 30
    assert options[socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT] == 30_000


# Token files


def test_a_token_file_is_read_again_after_a_minute(tmp_path, clock):
    token = tmp_path / "token"
    token.write_text("one\n")
    credentials = Credentials(kubeconfig(tmp_path / "config", SERVER, "{tokenFile: token}"), clock)
    first = credentials.current()
    token.write_text("two\n")

    clock.now += 59
    assert credentials.current() is first
    clock.now += 1
    second = credentials.current()

    assert first.headers == {"Authorization": "Bearer one"}
    assert second.headers == {"Authorization": "Bearer two"}
    assert second.pool is first.pool, "a new token needs no new connections"


@pytest.mark.parametrize(("content", "part"), [(None, "No such file"), (" \n", "is empty")])
def test_a_token_file_without_token_is_told(tmp_path, content, part):
    if content is not None:
        (tmp_path / "token").write_text(content)
    location = kubeconfig(tmp_path / "config", SERVER, "{tokenFile: token}")

    with pytest.raises(CredentialsError, match=f"{tmp_path / 'token'}.*{part}"):
        Credentials(location).current()


def test_rejected_credentials_are_obtained_anew_on_new_connections(tmp_path):
    token = tmp_path / "token"
    token.write_text("one")
    credentials = Credentials(kubeconfig(tmp_path / "config", SERVER, "{tokenFile: token}"))
    first = credentials.current()
    token.write_text("two")

    credentials.reject(first)
    second = credentials.current()
    credentials.reject(first)

    assert second.headers == {"Authorization": "Bearer two"}
    assert second.pool is not first.pool
    assert credentials.current() is second, "somebody else has renewed them already"


# Exec plugins


def test_an_exec_plugin_runs_again_when_its_token_expires(tmp_path, clock):
    expiry = "2027-01-15T09:00:00Z"
    user = plugin(tmp_path, {"token": "tNUMBER", "expirationTimestamp": expiry})
    credentials = Credentials(kubeconfig(tmp_path / "config", SERVER, user), clock)

    assert credentials.current().headers == {"Authorization": "Bearer t1"}
    assert credentials.current().headers == {"Authorization": "Bearer t1"}
    assert runs(tmp_path) == 1
    clock.now = credentials.current().expires
    assert credentials.current().headers == {"Authorization": "Bearer t2"}


def test_an_exec_plugin_runs_again_when_its_token_is_rejected(tmp_path):
    user = plugin(tmp_path, {"token": "tNUMBER"})
    credentials = Credentials(kubeconfig(tmp_path / "config", SERVER, user))

    credentials.reject(credentials.current())

    assert credentials.current().headers == {"Authorization": "Bearer t2"}


def test_an_exec_plugin_may_give_a_certificate(tmp_path):
    status = {"clientCertificateData": "CERT", "clientKeyData": "KEY"}
    pool = Credentials(kubeconfig(tmp_path / "c", SERVER, plugin(tmp_path, status))).current().pool

    assert Path(pool.connection_pool_kw["cert_file"]).read_text() == "CERT"


@pytest.mark.parametrize(
    ("status", "code", "part"),
    [
        ({"token": "x"}, 1, "login first"),
        (None, 0, "failed to decode"),
        ({}, 0, "neither a token nor a certificate"),
        ({"clientCertificateData": "CERT"}, 0, "neither a token nor a certificate"),
        ({"token": "x", "expirationTimestamp": "soon"}, 0, "soon"),
    ],
)
def test_a_failing_exec_plugin_is_named_with_its_reason(tmp_path, status, code, part):
    location = kubeconfig(tmp_path / "config", SERVER, plugin(tmp_path, status, code))

    with pytest.raises(CredentialsError, match=f"exec plugin '.*plugin'.*{part}"):
        Credentials(location).current()


@pytest.mark.parametrize(
    "user",
    ["{exec: {apiVersion: client.authentication.k8s.io/v1, command: no-such-plugin}}",
     "{exec: {command: x}}", "{exec: 3}"],
)  # fmt: skip
def test_an_exec_plugin_that_cannot_be_run_is_told(tmp_path, user):
    with pytest.raises(CredentialsError, match="exec plugin"):
        Credentials(kubeconfig(tmp_path / "config", SERVER, user)).current()


# In a pod


@pytest.fixture
def pod(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    (tmp_path / "token").write_text("one")
    (tmp_path / "ca.crt").write_text("pem")
    return ApiLocation(service_account_dir=tmp_path)


def test_a_pod_uses_its_service_account_and_reads_the_token_again(pod, tmp_path, clock):
    credentials = Credentials(pod, clock)
    credentials.check()
    first = credentials.current()
    (tmp_path / "token").write_text("two")
    clock.now += 60

    assert first.host == "https://[fd00::1]:443"
    assert first.headers == {"Authorization": "Bearer one"}
    assert first.pool.connection_pool_kw["ca_certs"] == str(tmp_path / "ca.crt")
    assert credentials.current().headers == {"Authorization": "Bearer two"}


@pytest.mark.parametrize("name", ["token", "ca.crt"])
def test_a_pod_without_its_service_account_files_is_told(pod, tmp_path, name):
    (tmp_path / name).unlink()

    with pytest.raises(CredentialsError, match=name):
        Credentials(pod).current()
