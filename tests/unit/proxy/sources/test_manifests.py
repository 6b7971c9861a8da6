"""A directory of manifests, followed."""

import os
import queue

import pytest

from proxy.model.events import Removed, Replaced, Resource, Unreadable, Upserted
from proxy.sources.manifests import ManifestDirectory, ManifestSource
from proxy.sources.source import ConfigurationError


def service(name="web", ip="10.0.0.1", port=80, extra=""):
    return (
        f"kind: Service\nmetadata: {{name: {name}, namespace: shop{extra}}}\n"
        f"spec: {{clusterIP: {ip}, ports: [{{port: {port}}}]}}\n"
    )


@pytest.fixture
def told():
    return []


@pytest.fixture
def manifests(tmp_path, told):
    return ManifestDirectory(tmp_path, "n1", told.append)


@pytest.fixture
def look(manifests):
    """Looks twice: a change is believed when it looks the same again."""

    def twice(received=1.0):
        first = manifests.look(received)
        return first or manifests.look(received)

    return twice


def names(events):
    return [(type(e).__name__, e.obj.metadata.name) for e in events if isinstance(e, Upserted)]


def texts(told):
    return [problem.text for problem in told]


def test_the_first_look_replaces_every_resource(tmp_path, look):
    (tmp_path / "b.yml").write_text(service("b"))
    (tmp_path / "a.json").write_text('{"kind": "Node", "metadata": {"name": "n1"}}')
    (tmp_path / "ignored.txt").write_text(service("no"))
    (tmp_path / ".hidden.yaml").write_text(service("no"))

    events = look()

    assert [type(event) for event in events] == [Replaced] * 4
    assert {e.resource: [o.metadata.name for o in e.objects] for e in events} == {
        Resource.SERVICE: ["b"],
        Resource.ENDPOINT_SLICE: [],
        Resource.NODE: ["n1"],
        Resource.SERVICE_CIDR: [],
    }


def test_nothing_new_gives_no_events(tmp_path, look):
    (tmp_path / "a.yaml").write_text(service())
    look()

    assert look() == []


def test_changes_give_only_the_differences(tmp_path, look):
    (tmp_path / "a.yaml").write_text(service("a") + "---\n" + service("b"))
    look()

    (tmp_path / "a.yaml").write_text(service("a") + "---\n" + service("c"))
    events = look(received=7.5)

    assert names(events) == [("Upserted", "c")]
    assert events[0].received == 7.5
    assert events[1:] == [Removed(Resource.SERVICE, "shop", "b")]


def test_a_file_that_is_still_growing_is_not_read_yet(tmp_path, manifests):
    (tmp_path / "a.yaml").write_text(service("a") + "---\n" + service("b"))
    manifests.look(0.0)

    (tmp_path / "a.yaml").write_text("")
    assert manifests.look(0.0) == []
    (tmp_path / "a.yaml").write_text(service("a") + "---\n" + service("b", port=81))
    assert manifests.look(0.0) == []

    assert names(manifests.look(0.0)) == [("Upserted", "b")]


def test_a_deleted_file_takes_its_objects_with_it(tmp_path, look):
    (tmp_path / "a.yaml").write_text(service("a"))
    look()

    (tmp_path / "a.yaml").unlink()

    assert look() == [Removed(Resource.SERVICE, "shop", "a")]


def test_a_file_that_is_missing_only_while_an_editor_saves_it_is_not_deleted(tmp_path, manifests):
    (tmp_path / "a.yaml").write_text(service("a"))
    manifests.look(0.0)

    (tmp_path / "a.yaml").rename(tmp_path / "a.yaml~")
    assert manifests.look(0.0) == []
    (tmp_path / "a.yaml").write_text(service("a", port=81))
    assert manifests.look(0.0) == []

    assert names(manifests.look(0.0)) == [("Upserted", "a")]


def test_a_file_that_does_not_parse_keeps_its_objects_and_is_told_with_its_line(
    tmp_path, look, told
):
    (tmp_path / "a.yaml").write_text(service("a"))
    (tmp_path / "b.yaml").write_text(service("b"))
    look()

    (tmp_path / "a.yaml").write_text(service("a") + "]]]\n")
    (tmp_path / "b.yaml").write_text(service("b", port=81))
    assert names(look()) == [("Upserted", "b")]
    (text,) = texts(told)
    assert text.startswith(f"cannot read {tmp_path / 'a.yaml'}: line 4: ")
    assert "1 objects it had before stay" in text

    (tmp_path / "a.yaml").write_text(service("a", port=82))
    assert names(look()) == [("Upserted", "a")]
    assert told[-1].resolved


def test_a_configmap_that_is_swapped_by_its_links_is_noticed(tmp_path, look):
    for version, port in ((1, 80), (2, 81)):
        (tmp_path / f"..v{version}").mkdir()
        (tmp_path / f"..v{version}" / "a.yaml").write_text(service("a", port=port))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    (first, *_) = look()
    assert first.objects[0].spec.ports[0].port == 80

    (tmp_path / "..new").symlink_to("..v2")
    (tmp_path / "..new").rename(tmp_path / "..data")

    (event,) = look()
    assert event.obj.spec.ports[0].port == 81


def test_a_change_that_keeps_size_and_time_is_noticed_by_its_inode(tmp_path, look):
    path = tmp_path / "a.yaml"
    path.write_text(service("a", port=80))
    look()
    status = path.stat()

    (tmp_path / "new").write_text(service("a", port=81))
    os.utime(tmp_path / "new", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "new").rename(path)

    assert names(look()) == [("Upserted", "a")]


def test_of_two_files_with_one_object_the_first_by_name_wins_and_it_is_told_once(
    tmp_path, look, told
):
    (tmp_path / "b.yaml").write_text(service("web", port=81))
    (tmp_path / "a.yaml").write_text(service("web", port=80))
    first, *_ = look()

    assert [obj.spec.ports[0].port for obj in first.objects] == [80]
    (text,) = texts(told)
    assert "Service shop/web is in a.yaml and in b.yaml" in text

    (tmp_path / "c.yaml").write_text(service("other"))
    look()
    assert len(told) == 1

    (tmp_path / "a.yaml").unlink()
    (event,) = look()
    assert event.obj.spec.ports[0].port == 81


def test_an_object_that_cannot_be_read_any_more_stays_as_it_was(tmp_path, look):
    (tmp_path / "a.yaml").write_text(service("a"))
    look()

    (tmp_path / "a.yaml").write_text(service("a", port="http"))
    problem = "a.yaml: line 1: spec.ports[0].port: Expected int, got str"
    assert look() == [Unreadable(Resource.SERVICE, "shop", "a", problem)]
    (tmp_path / "b.yaml").write_text(service("b"))
    assert names(look()) == [("Upserted", "b")]

    (tmp_path / "a.yaml").unlink()
    assert look() == [Removed(Resource.SERVICE, "shop", "a")]


def test_an_object_that_cannot_be_read_at_first_is_named(tmp_path, look):
    (tmp_path / "a.yaml").write_text(service("a", port="http"))

    replaced, *_ = look()

    (unreadable,) = replaced.objects
    assert isinstance(unreadable, Unreadable)
    assert (unreadable.namespace, unreadable.name) == ("shop", "a")


def test_objects_the_api_would_not_have_sent_are_left_out(tmp_path, look):
    label = ", labels: {service.kubernetes.io/service-proxy-name: other}"
    (tmp_path / "a.yaml").write_text(
        service("other", extra=label)
        + "---\n"
        + service("headless", ip="None")
        + "---\n"
        + service("web")
    )
    first, *_ = look()
    assert [obj.metadata.name for obj in first.objects] == ["web"]

    (tmp_path / "a.yaml").write_text(service("web", extra=label))
    assert look() == [Removed(Resource.SERVICE, "shop", "web")]


def test_a_directory_that_vanishes_changes_nothing_and_is_told(tmp_path, told):
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "a.yaml").write_text(service("a"))
    manifests = ManifestDirectory(directory, "n1", told.append)
    manifests.look(0.0)

    directory.rename(tmp_path / "gone")
    assert manifests.look(0.0) == manifests.look(0.0) == []
    assert texts(told) == [
        f"manifests {directory}: No such file or directory; everything stays as it was"
    ]

    (tmp_path / "gone").rename(directory)
    assert manifests.look(0.0) == []
    assert told[-1].resolved


def test_a_link_that_leads_nowhere_and_a_directory_are_no_files(tmp_path, look, told):
    (tmp_path / "a.yaml").symlink_to("nowhere")
    (tmp_path / "d.yaml").mkdir()

    assert all(event.objects == () for event in look())
    assert told == []


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_source_without_directory_refuses_to_start(tmp_path, told, name):
    (tmp_path / "file").write_text("")
    source = ManifestSource(tmp_path / name, "n1", told.append)

    with pytest.raises(ConfigurationError, match="check --manifests"):
        source.start(lambda _: None)


def test_a_running_source_delivers_changes_until_it_is_stopped(tmp_path, told):
    (tmp_path / "a.yaml").write_text(service("a"))
    events = queue.SimpleQueue()
    source = ManifestSource(tmp_path, "n1", told.append)
    source.start(events.put)
    try:
        assert all(isinstance(events.get(timeout=5), Replaced) for _ in range(4))
        (tmp_path / "a.yaml").write_text(service("a", port=81))
        assert isinstance(events.get(timeout=5), Upserted)
    finally:
        source.stop()

    (tmp_path / "a.yaml").write_text(service("a", port=82))
    with pytest.raises(queue.Empty):
        events.get(timeout=0.3)
