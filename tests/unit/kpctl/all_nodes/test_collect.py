"""Many nodes at a time: limits, nodes that die, debug pods that always go away."""

import threading
import time

import pytest

from diagnostics.snapshot.parts import Gap, Part
from kpctl.all_nodes.api import NodesApi
from kpctl.all_nodes.collect import collecting
from kpctl.all_nodes.debug_pods import DebugPods, pod_manifest
from kpctl.all_nodes.plan import Choice, make_plan
from proxy.sources.credentials import ApiLocation, Credentials
from tests.support.exec_apiserver import ABSENT, ExecApi, Output
from tests.support.waiting import eventually

RULES = b"*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"


def programs(argv):
    return Output(RULES) if argv[0].endswith("tables-save") else ABSENT


@pytest.fixture
def api(tmp_path):
    with ExecApi(debug_programs=programs) as server:
        credentials = Credentials(ApiLocation(str(server.kubeconfig(tmp_path / "config"))))
        server.client = NodesApi(credentials, "kpctl/test")
        yield server


@pytest.fixture
def collect(api):
    def call(**choice):
        said = []
        plan = make_plan(api.client, Choice(**choice))
        with collecting(api.client, plan, None, said.append) as nodes:
            found = {parts.node: parts for parts in nodes}
        assert said == []
        return found

    return call


def test_every_node_comes_once_and_no_more_than_allowed_at_a_time(api, collect):
    def slow(argv):
        return Output(RULES, hang_s=0.005)

    for number in range(12):
        api.add_node(f"n{number}", slow)
    found = collect(concurrency=3)
    assert set(found) == {f"n{number}" for number in range(12)}
    assert 1 < api.most_at_once <= 3
    assert all(parts.read(Part.IPTABLES)[0].data == RULES for parts in found.values())


def test_a_place_is_free_only_when_its_node_was_taken(api):
    for number in range(4):
        api.add_node(f"n{number}", programs)
    plan = make_plan(api.client, Choice(concurrency=2))
    with collecting(api.client, plan, None, pytest.fail) as nodes:
        next(nodes)
        eventually(lambda: len({pod for pod, _ in api.ran}) == 2)
        settled = threading.Event()
        settled.wait(0.2)
        assert len({pod for pod, _ in api.ran}) == 2
        assert len(list(nodes)) == 3


def test_a_node_that_hangs_costs_its_own_time_only(api, collect):
    def hanging(argv):
        return Output(RULES, hang_s=0 if argv[0] == "iptables-save" else 60)

    api.add_node("hangs", hanging)
    api.add_node("well", programs)
    started = time.monotonic()
    found = collect(timeout_s=1.0)
    assert time.monotonic() - started < 10
    assert found["well"].problem == ""
    assert found["hangs"].read(Part.IPTABLES)[0].data == RULES
    missing = found["hangs"].read(Part.ADDRESSES)
    assert isinstance(missing, Gap)
    assert found["hangs"].problem
    assert found["hangs"].problem in missing.why


def test_a_node_that_never_answers_is_left_behind(api, collect):
    for name in ("deaf", "well"):
        api.add_node(name, programs)
    api.deaf = {"kube-proxy-deaf"}
    started = time.monotonic()
    found = collect(timeout_s=1.0, concurrency=1)
    assert time.monotonic() - started < 10
    assert found["deaf"].problem == "no answer within 1 s"
    assert found["deaf"].read(Part.HOSTNAME)[0].data == b"deaf\n"
    assert found["well"].problem == ""


def test_a_connection_that_breaks_once_costs_one_part(api, collect):
    broken = {"ip6tables-save"}

    def once(argv):
        return Output(RULES, cut=True) if argv[0] in broken else programs(argv)

    api.add_node("a", once)
    parts = collect()["a"]
    assert parts.problem == ""
    assert isinstance(parts.read(Part.IP6TABLES), Gap)
    assert parts.read(Part.IPTABLES)[0].data == RULES


def test_what_an_image_lacks_is_a_gap_with_the_next_step(api, collect):
    api.add_node("a", programs)
    parts = collect()["a"]
    gap = parts.read(Part.ADDRESSES)
    assert gap.why == "the image has no ip (package iproute2)"
    assert "--debug-pods" in gap.how
    assert "the image has no ls" in parts.read(Part.IPSET).why
    assert ("kube-proxy-a", ("ipset", "save")) not in api.ran


def test_ipsets_are_listed_only_where_the_module_is_loaded(api, collect):
    def with_ls(argv):
        if argv[:2] == ["ls", "-d"]:
            there = argv[2] == "/sys/module/ip_set"
            said = f"ls: {argv[2]}: No such file or directory".encode()
            return Output() if there else Output(stderr=said, code=1)
        return Output(b"create A hash:ip\n") if argv[0] == "ipset" else programs(argv)

    api.add_node("a", with_ls)
    parts = collect()["a"]
    assert parts.read(Part.IPSET)[0].data == b"create A hash:ip\n"
    assert parts.read(Part.IPVS)[0].data == b""
    assert "absent" in parts.read(Part.IPVS)[0].note
    assert parts.read(Part.RECENT)[0].data == b""
    assert ("kube-proxy-a", ("ipvsadm", "-Sn")) not in api.ran


def test_rules_that_use_sets_prove_that_there_are_sets(api, collect):
    rules = RULES + b"-A X -m set --match-set A dst -j ACCEPT\n"
    known = {"iptables-save": rules, "ipset": b"create A hash:ip\n"}
    api.add_node("a", lambda argv: Output(known[argv[0]]) if argv[0] in known else ABSENT)
    assert collect()["a"].read(Part.IPSET)[0].data == b"create A hash:ip\n"


def test_the_backend_with_the_proxys_rules_is_kept(api, collect):
    known = {"iptables-save": b"# nothing\n", "iptables-legacy-save": RULES}
    api.add_node("a", lambda argv: Output(known[argv[0]]) if argv[0] in known else ABSENT)
    assert collect()["a"].read(Part.IPTABLES)[0].data == RULES


def test_the_log_comes_from_the_api(api, collect):
    api.add_node("a", programs)
    assert collect()["a"].read(Part.LOG)[0].data == b"I0101 the log\n"


@pytest.mark.parametrize("pod", [{"host_network": False}, {"phase": "Pending"}])
def test_a_node_without_a_usable_pod_gets_a_debug_pod_for_a_while(pod, api, collect):
    api.add_node("a", programs, **pod)
    parts = collect(image="registry.example/tools:1")["a"]
    assert parts.read(Part.IPTABLES)[0].data == RULES
    (created,) = api.created
    spec = created["spec"]
    assert (spec["nodeName"], spec["hostNetwork"]) == ("a", True)
    assert spec["containers"][0]["image"] == "registry.example/tools:1"
    assert 0 < spec["activeDeadlineSeconds"] <= 600
    assert spec["automountServiceAccountToken"] is False
    assert api.deleted == [created["metadata"]["name"]]


def test_debug_pods_can_be_asked_for_where_there_are_proxies_pods(api, collect):
    api.add_node("a", lambda _: ABSENT)
    assert collect(debug_pods=True)["a"].read(Part.IPTABLES)[0].data == RULES
    assert len(api.created) == len(api.deleted) == 1


def test_a_debug_pod_is_no_more_privileged_than_listing_rules_needs():
    spec = pod_manifest("x", "a", "i", 60)["spec"]
    assert not {"hostPID", "hostIPC", "volumes", "serviceAccountName"} & set(spec)
    context = spec["containers"][0]["securityContext"]
    assert "privileged" not in context
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (
            {
                "phase": "Pending",
                "containerStatuses": [
                    {
                        "name": "kpctl",
                        "state": {
                            "waiting": {"reason": "ErrImagePull", "message": "no such image"}
                        },
                    }
                ],
            },
            "ErrImagePull: no such image",
        ),
        ({"phase": "Failed", "reason": "NodeAffinity"}, "it ended at once (Failed) NodeAffinity"),
        ({"phase": "Pending"}, "does not run: it is Pending"),
    ],
)
def test_a_debug_pod_that_does_not_start_is_a_gap_and_goes_away(status, why, api, collect):
    api.debug_status = status
    api.add_node("a")
    parts = collect(timeout_s=1.0)["a"]
    assert why in parts.problem
    assert len(api.deleted) == len(api.created) == 1


def test_an_interruption_deletes_all_debug_pods(api):
    api.debug_programs = lambda argv: Output(RULES, hang_s=60)
    for name in "abc":
        api.add_node(name)
    plan = make_plan(api.client, Choice(concurrency=2))

    def interrupted():
        with collecting(api.client, plan, None, pytest.fail):
            raise KeyboardInterrupt

    def interrupted_later():
        with collecting(api.client, plan, None, pytest.fail) as nodes:
            threads = threading.Thread(target=lambda: list(nodes), daemon=True)
            threads.start()
            eventually(lambda: len(api.ran) == 2)
            raise KeyboardInterrupt

    for act in (interrupted, interrupted_later):
        with pytest.raises(KeyboardInterrupt):
            act()
    names = {pod["metadata"]["name"] for pod in api.created}
    assert len(names) == 2
    assert names <= set(api.deleted)
    assert [pod for pod in api.pods if pod in api.created] == []


def test_after_the_end_no_pod_is_created_any_more(api):
    pods = DebugPods(api.client, "kube-system", "i", 10)
    assert pods.close() == []
    with pytest.raises(Exception, match="interrupted"):
        pods.start("a", time.monotonic() + 1)
    assert api.created == []


def test_a_pod_that_cannot_be_deleted_is_told_with_the_end_of_its_life(api, tmp_path):
    api.add_node("a")
    said = []
    plan = make_plan(api.client, Choice())
    with collecting(api.client, plan, None, said.append) as nodes:
        api.refuse_delete = True
        problem = next(nodes).problem
        assert "could not be deleted" in problem
    assert len(said) == 1
    assert "it ends by itself after 180 s" in said[0]


def test_a_pod_of_kpctl_makes_its_own_snapshot(api, collect, tmp_path):
    from datetime import UTC, datetime
    from io import BytesIO

    from diagnostics.snapshot.source import Content, MemorySource
    from diagnostics.snapshot.write import Origin, write_snapshot

    made = BytesIO()
    held = MemorySource({Part.IPTABLES: (Content("x", RULES),)}, "memory")
    write_snapshot(held, made, Origin("1", "a", datetime.now(UTC)), node_only=True)
    own = Output(made.getvalue())
    older = Output(stderr=b"No such option: --node-only", code=2)
    api.add_node("a", lambda argv: own if argv[0] == "kpctl" else ABSENT, app="kpctl")
    api.add_node("b", lambda argv: older if argv[0] == "kpctl" else programs(argv), app="kpctl")
    found = collect()
    assert [found[name].read(Part.IPTABLES)[0].data for name in "ab"] == [RULES, RULES]
    asked = [argv[0] for pod, argv in api.ran if pod == "kube-proxy-a"]
    assert asked == ["kpctl"]
    assert isinstance(found["a"].read(Part.NFT_JSON), Gap)
