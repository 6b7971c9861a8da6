"""A kernel that refuses the table as a whole is explained in the log, once for each family."""

import errno
import io

import pytest

from proxy.config.defaults import default_config
from proxy.engine.loop import Engine, Kernel
from proxy.engine.nftables.plane import NftablesPlane
from proxy.engine.publisher import Outlets, Publisher
from proxy.kernel.dry_run import AcceptingNft
from proxy.kernel.netlink import NetlinkError
from proxy.kernel.nftables import Refusal, TransactionRejected
from proxy.model.addresses import IPFamily
from proxy.model.events import Replaced, Resource
from proxy.model.store import ClusterStore
from proxy.runtime.clock import SystemClock
from proxy.runtime.health import ProxyHealth
from proxy.runtime.logs import LogSettings, setup_logging
from proxy.runtime.metrics import BuildInfo, ProxyMetrics


class RefusingNft(AcceptingNft):
    """Refuses the first request of every transaction, as for an expression it does not know."""

    def apply(self, requests):
        raise TransactionRejected([Refusal(0, NetlinkError(errno.ENOENT))])


class UnreadableNft(AcceptingNft):
    """Has no nf_tables at all."""

    def table_comment(self, table):
        raise NetlinkError(errno.EOPNOTSUPP)


class NoEvents:
    def record(self, event):
        """Take no notice."""


@pytest.fixture
def log():
    stream = io.StringIO()
    setup_logging(LogSettings(), stream)
    yield stream
    setup_logging(LogSettings())


def run_once(port) -> list[IPFamily]:
    """Run an engine until it has started; return the families whose kernel it had explained."""
    asked: list[IPFamily] = []

    def explain(family):
        asked.append(family)
        return f"The {family.value} kernel refuses 'reject'."

    families = tuple(IPFamily)
    outlets = Outlets(
        ProxyMetrics(BuildInfo(git_version="v1.36.2")),
        ProxyHealth(60.0, SystemClock()),
        {},
        NoEvents(),
        None,
    )
    engine = Engine(
        default_config(),
        "node-1",
        ClusterStore(families, "node-1"),
        Kernel(NftablesPlane(dict.fromkeys(families, port), explain), lambda _: frozenset()),
        Publisher(outlets),
        wait_for_node=False,
        on_started=lambda: engine.stop(),
    )
    for resource in (Resource.SERVICE, Resource.ENDPOINT_SLICE, Resource.NODE):
        engine.submit(Replaced(resource, ()))
    engine.run()
    return asked


@pytest.mark.parametrize("port", [RefusingNft(), UnreadableNft()])
def test_a_refused_first_write_is_explained_once_for_each_family(log, port):
    assert run_once(port) == list(IPFamily)
    for family in IPFamily:
        assert log.getvalue().count(f"The {family.value} kernel refuses 'reject'.") == 1


def test_nothing_is_explained_when_the_kernel_takes_the_table(log):
    assert run_once(AcceptingNft()) == []
    assert "kernel refuses" not in log.getvalue()
