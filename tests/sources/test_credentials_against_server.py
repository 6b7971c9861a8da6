"""Credentials that are refused, replaced and encrypted on real connections."""

import ssl
from pathlib import Path

import pytest

from proxy.model.events import Resource
from proxy.sources.credentials import ApiLocation
from tests.support import stub_objects
from tests.support.apiserver import ApiServer
from tests.support.following import Following, kubeconfig

TLS = Path(__file__).parent.parent / "data" / "tls"
SERVICE = Resource.SERVICE


def test_a_token_that_was_replaced_in_its_file_is_taken_up_without_a_word(api, tmp_path):
    api.tokens = {"one"}
    token = tmp_path / "token"
    token.write_text("one")
    location = kubeconfig(tmp_path / "config", api.url, "{tokenFile: token}")
    with Following(location) as follow:
        follow.wait_all_synced()
        for plural in ("services", "endpointslices", "nodes", "servicecidrs"):
            follow.wait_watching(api, plural)
        token.write_text("two")
        api.tokens = {"two"}
        api.cut_connections()
        api.store.put("services", stub_objects.service("later"))
        follow.wait_names(SERVICE, {"web", "later"})
        assert follow.problems == []


def test_an_expired_token_is_told_and_the_source_waits_for_a_new_one(api, tmp_path):
    api.tokens = {"new"}
    (tmp_path / "token").write_text("old")
    location = kubeconfig(tmp_path / "config", api.url, "{tokenFile: token}")
    with Following(location) as follow:
        problem = follow.wait_problem("does not accept the credentials")
        assert "Renew the token" in problem.text
        (tmp_path / "token").write_text("new")
        follow.wait_all_synced()
        follow.wait_problem("answers again", resolved=True)


def test_a_missing_token_file_is_told_and_waited_for(api, tmp_path):
    location = kubeconfig(tmp_path / "config", api.url, "{tokenFile: token}")
    with Following(location) as follow:
        follow.wait_problem("cannot read token file")
        (tmp_path / "token").write_text("any")
        follow.wait_all_synced()


@pytest.fixture
def tls_api():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(TLS / "ca.crt"))
    context.load_cert_chain(TLS / "server.crt", TLS / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    server = ApiServer(tls=context)
    server.store.put("services", stub_objects.service("web"))
    with server:
        yield server


ME = f"{{client-certificate: {TLS / 'client.crt'}, client-key: {TLS / 'client.key'}}}"


def test_a_server_is_verified_and_we_show_our_certificate(tls_api, tmp_path):
    location = kubeconfig(
        tmp_path / "config", tls_api.url, ME, f", certificate-authority: {TLS / 'ca.crt'}"
    )
    with Following(location) as follow:
        follow.wait_all_synced()
        follow.wait_watching(tls_api, "services")
        tls_api.store.put("services", stub_objects.service("later"))
        follow.wait_names(SERVICE, {"web", "later"})


def test_a_server_of_another_authority_is_not_talked_to(tls_api, tmp_path):
    with Following(kubeconfig(tmp_path / "config", tls_api.url, ME)) as follow:
        problem = follow.wait_problem("no connection to the API server")
        assert "certificate verify failed" in problem.text
        assert follow.events == []


def test_verification_can_be_switched_off(tls_api, tmp_path):
    location = kubeconfig(tmp_path / "config", tls_api.url, ME, ", insecure-skip-tls-verify: true")
    with Following(location) as follow:
        follow.wait_all_synced()


def test_plain_http_to_a_tls_server_is_told(tls_api):
    with Following(ApiLocation(master=f"http://127.0.0.1:{tls_api.port}")) as follow:
        follow.wait_problem("no connection to the API server")


def test_an_address_that_is_none_is_told():
    with Following(ApiLocation(master="http://nowhere.invalid:1")) as follow:
        follow.wait_problem("no connection to the API server at http://nowhere.invalid:1")
