"""What is concluded from the kernel's refusals; the kernel's own answers are in tests/packets."""

import errno
import threading
from collections.abc import Sequence

import pytest

from proxy.kernel import capabilities
from proxy.kernel.capabilities import Missing, Undetermined, explain, probe, why_refused
from proxy.kernel.netlink import NetlinkError
from proxy.kernel.nftables import Refusal, TransactionRejected
from proxy.kernel.trials import trials
from proxy.model.addresses import IPFamily

FAMILIES = pytest.mark.parametrize("family", list(IPFamily))


class Kernel:
    """Answers the trials: *answers* maps features to errno numbers, *whole* refuses everything."""

    def __init__(self, answers: dict[str, int] | None = None, whole: int = 0) -> None:
        self.tried: list[str] = []
        self.closed = False
        self._answers = answers or {}
        self._whole = whole

    def __call__(self, family: IPFamily) -> "Kernel":
        self._features = {trial.requests: trial.feature for trial in trials(family)}
        return self

    def apply(self, requests: Sequence) -> float:
        feature = self._features[tuple(requests)]
        self.tried.append(feature)
        if self._whole:
            raise NetlinkError(self._whole)
        if number := self._answers.get(feature, 0):
            raise TransactionRejected([Refusal(0, NetlinkError(number))])
        return 0.0

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def install(monkeypatch):
    """Let trials be answered by a fake kernel, with no namespace."""
    monkeypatch.setattr(capabilities, "_enter_scratch_namespace", lambda: None)

    def installed(kernel):
        monkeypatch.setattr(capabilities, "NetlinkNft", kernel)
        return kernel

    return installed


# -- conclusions -----------------------------------------------------------------------------


@FAMILIES
def test_nothing_is_missing_when_the_kernel_takes_everything(install, family):
    kernel = install(Kernel())
    assert probe(family) == ()
    assert kernel.tried == [trial.feature for trial in trials(family)]
    assert kernel.closed
    assert why_refused(family) == ""


@pytest.mark.parametrize(
    ("feature", "option", "module"),
    [
        ("table", "CONFIG_NF_TABLES_IPV6", ""),
        ("chain type nat", "CONFIG_NFT_NAT", "nft_chain_nat"),
        ("numgen random", "CONFIG_NFT_NUMGEN", "nft_numgen"),
        ("fib saddr/daddr type", "CONFIG_NFT_FIB_IPV6", "nft_fib_ipv6"),
        ("ct state", "CONFIG_NFT_CT", "nft_ct"),
        ("masquerade fully-random", "CONFIG_NFT_MASQ", "nft_masq"),
        ("reject", "CONFIG_NFT_REJECT_IPV6", "nft_reject_ipv6"),
        ("dnat by map", "CONFIG_NFT_NAT", "nft_nat"),
    ],
)
def test_a_refusal_names_the_option_and_the_module(install, feature, option, module):
    install(Kernel({feature: errno.ENOENT}))
    assert probe(IPFamily.IPV6) == (Missing(feature, option, "No such file or directory", module),)


def test_what_depends_on_something_refused_is_not_tried(install):
    kernel = install(Kernel({"ct state": errno.ENOENT, "chain type nat": errno.ENOENT}))
    missing = probe(IPFamily.IPV4)
    assert [item.feature for item in missing] == ["chain type nat", "ct state"]
    assert "ct status" not in kernel.tried
    assert "update of a dynamic map" not in kernel.tried  # it needs "ct original"
    assert "masquerade fully-random" not in kernel.tried
    assert "reject" in kernel.tried


def test_without_a_table_only_the_table_is_reported(install):
    kernel = install(Kernel({"table": errno.EOPNOTSUPP}))
    (missing,) = probe(IPFamily.IPV4)
    assert missing.kernel_option == "CONFIG_NF_TABLES_IPV4"
    assert kernel.tried == ["table"]


def test_a_kernel_that_is_too_old_is_told_apart(install):
    install(Kernel({"concatenated set of ranges": errno.EINVAL}))
    assert "CONFIG_NF_TABLES and of Linux 5.6 or later" in why_refused(IPFamily.IPV4)


def test_a_kernel_without_nf_tables_is_named(install):
    kernel = install(Kernel(whole=errno.EOPNOTSUPP))
    (missing,) = probe(IPFamily.IPV4)
    assert (missing.kernel_option, missing.module) == ("CONFIG_NF_TABLES", "nf_tables")
    assert len(kernel.tried) == 1


def test_a_kernel_without_netfilter_netlink_is_named(install):
    def refused(_family):
        raise NetlinkError(errno.EPROTONOSUPPORT)

    install(refused)
    (missing,) = probe(IPFamily.IPV4)
    assert (missing.kernel_option, missing.module) == ("CONFIG_NETFILTER_NETLINK", "nfnetlink")


# -- what cannot be concluded ----------------------------------------------------------------


def test_lack_of_rights_is_unknown_and_not_missing(install):
    install(Kernel(whole=errno.EPERM))
    with pytest.raises(Undetermined, match="CAP_NET_ADMIN"):
        probe(IPFamily.IPV4)
    text = why_refused(IPFamily.IPV4)
    assert text.startswith("It is unknown")
    assert "CONFIG_NFT_FIB_IPV4" in text
    assert "nft_numgen" in text


def test_lack_of_memory_is_unknown_and_not_missing(install):
    install(Kernel({"reject": errno.ENOMEM}))
    with pytest.raises(Undetermined, match="'reject' could not be tried"):
        probe(IPFamily.IPV4)


def test_a_namespace_that_cannot_be_made_is_unknown(install, monkeypatch):
    def refused():
        raise Undetermined(errno.ENOSPC, "cannot make a network namespace")

    kernel = install(Kernel())
    monkeypatch.setattr(capabilities, "_enter_scratch_namespace", refused)
    with pytest.raises(Undetermined, match="cannot make a network namespace"):
        probe(IPFamily.IPV4)
    assert kernel.tried == []


def test_a_kernel_that_does_not_answer_holds_nobody_up(install, monkeypatch):
    answer = threading.Event()

    class Silent(Kernel):
        def apply(self, requests):
            answer.wait()
            return super().apply(requests)

    kernel = install(Silent())
    with pytest.raises(Undetermined, match=r"longer than 0\.01 s"):
        probe(IPFamily.IPV4, limit_s=0.01)
    assert "longer than 0.09 s" in why_refused(IPFamily.IPV4)
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "nft-probe":
            thread.join()
    assert set(kernel.tried) == {"table"}, "nothing more is tried after the time is over"


def test_what_was_found_before_the_time_was_over_is_told(install):
    answer = threading.Event()

    class Slow(Kernel):
        def apply(self, requests):
            if self.tried[-1:] == ["numgen random"]:
                answer.wait()
            return super().apply(requests)

    install(Slow({"numgen random": errno.ENOENT}))
    text = why_refused(IPFamily.IPV4)
    answer.set()
    assert "'modprobe nft_numgen'" in text
    assert text.endswith("There may be more: not everything was tried.")


def test_threads_that_cannot_be_started_are_unknown(install, monkeypatch):
    def refused(_thread):
        raise RuntimeError("can't start new thread")

    install(Kernel())
    monkeypatch.setattr(threading.Thread, "start", refused)
    assert "can't start new thread" in why_refused(IPFamily.IPV4)


# -- words -----------------------------------------------------------------------------------


def test_each_missing_feature_is_one_sentence_with_the_next_step():
    text = explain(
        (
            Missing("reject", "CONFIG_NFT_REJECT_IPV4", "No such file", "nft_reject_ipv4"),
            Missing("table", "CONFIG_NF_TABLES_IPV4", "Operation not supported"),
        )
    )
    assert text == (
        "The kernel refuses 'reject' (No such file): run 'modprobe nft_reject_ipv4' on the node, "
        "and if that does not help use a kernel with CONFIG_NFT_REJECT_IPV4. "
        "The kernel refuses 'table' (Operation not supported): use a kernel with "
        "CONFIG_NF_TABLES_IPV4."
    )
    assert explain(()) == ""
