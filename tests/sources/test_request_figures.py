"""What a source tells of its requests and streams, for the metrics."""

from proxy.sources.client import Client
from proxy.sources.credentials import ApiLocation, Credentials
from proxy.sources.kubernetes import KubernetesSource
from proxy.sources.resources import followed_resources
from tests.support.apiserver import ApiServer
from tests.support.following import NODE
from tests.support.waiting import eventually


def test_sizes_of_lists_and_events_and_cut_watches_are_told() -> None:
    sizes: list[tuple[str, str, int, int]] = []
    cuts: list[str] = []
    api = ApiServer()
    api.fill(3, 2)
    with api:
        credentials = Credentials(ApiLocation(master=api.url))
        client = Client(
            credentials, "kpctl/test", observe_sizes=lambda *figures: sizes.append(figures)
        )
        source = KubernetesSource(
            client, credentials, followed_resources(NODE), lambda _: None, cuts.append
        )
        source.start(lambda _: None)
        try:
            eventually(lambda: len(api.requests("services", "watch")) > 0)
            client.post(
                "/apis/events.k8s.io/v1/namespaces/default/events", {"metadata": {"name": "e"}}
            )
            assert cuts == []
            api.cut_connections()
            eventually(lambda: "Service" in cuts)
        finally:
            source.stop()
    host = api.url.partition("://")[2]
    assert any(what[:3] == ("GET", host, 0) and what[3] > 300 for what in sizes)
    assert [what[2] for what in sizes if what[0] == "POST"] == [len(b'{"metadata":{"name":"e"}}')]
