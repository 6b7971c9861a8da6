"""What iptables-restore 1.8.9 said when it refused each of these inputs."""

from __future__ import annotations

import pytest

from proxy.kernel.restore_refusal import parse_refusal

_TRY = "Try `iptables-restore -h' or 'iptables-restore --help' for more information.\n"


def _table(*lines: str) -> str:
    return "\n".join(("*nat", *lines, "COMMIT", ""))


@pytest.mark.parametrize(
    ("said", "line", "message"),
    [
        (
            "iptables-restore: line 3 failed: No chain/target/match by that name.\n",
            3,
            "iptables-restore: line 3 failed: No chain/target/match by that name.",
        ),
        ("iptables-restore: line 2 failed\n", 2, "iptables-restore: line 2 failed"),
        (
            'iptables-restore v1.8.9 (nf_tables): unknown option "--bogus"\n'
            f"Error occurred at line: 3\n{_TRY}",
            3,
            'iptables-restore v1.8.9 (nf_tables): unknown option "--bogus" '
            "Error occurred at line: 3",
        ),
        (
            "iptables-restore v1.8.9 (legacy): Couldn't load match `nosuch':No such file or "
            f"directory\n\nError occurred at line: 3\n{_TRY}",
            3,
            "iptables-restore v1.8.9 (legacy): Couldn't load match `nosuch':No such file or "
            "directory Error occurred at line: 3",
        ),
        (
            "iptables-restore v1.8.9 (nf_tables): \n"
            "line 3: RULE_APPEND failed (Invalid argument): rule in chain KUBE-A\n",
            3,
            "iptables-restore v1.8.9 (nf_tables): "
            "line 3: RULE_APPEND failed (Invalid argument): rule in chain KUBE-A",
        ),
        (
            "iptables-restore: COMMIT expected at line 4\n",
            4,
            "iptables-restore: COMMIT expected at line 4",
        ),
    ],
)
def test_the_line_is_found_in_every_wording(said: str, line: int, message: str) -> None:
    text = _table(":KUBE-A - [0:0]", "-A KUBE-A -j X", "-A KUBE-A -j Y")
    refusal = parse_refusal(said, text)
    assert (refusal.line, refusal.message) == (line, message)
    assert not refusal.at_commit
    assert not refusal.transient


def test_the_first_of_several_refused_lines_counts() -> None:
    said = (
        "iptables-restore v1.8.9 (nf_tables): \n"
        "line 2: RULE_APPEND failed (Invalid argument): rule in chain A\n"
        "line 3: RULE_APPEND failed (Invalid argument): rule in chain A\n"
    )
    assert parse_refusal(said, _table("-A A -j B", "-A A -j C")).line == 2


def test_a_commit_refused_as_a_whole_is_told_apart() -> None:
    refusal = parse_refusal("iptables-restore: line 3 failed\n", _table("-A A -j B"))
    assert (refusal.line, refusal.at_commit) == (3, True)


def test_a_chain_missed_at_commit_leads_to_the_first_jump_of_that_table() -> None:
    said = (
        "iptables-restore v1.8.9 (nf_tables): Chain 'KUBE-SVC-X' does not exist\n"
        f"Error occurred at line: 7\n{_TRY}"
    )
    text = _table("-A A -j KUBE-SVC-X") + _table("-A A -j KUBE-SVC-XY", "-A A -g KUBE-SVC-X")
    assert text.split("\n")[6] == "COMMIT"
    refusal = parse_refusal(said, text)
    assert (refusal.line, refusal.at_commit) == (6, False)


def test_a_chain_missed_at_commit_that_no_line_names_leaves_the_commit() -> None:
    said = (
        "iptables-restore v1.8.9 (nf_tables): Chain 'Z' does not exist\nError occurred at line: 3\n"
    )
    refusal = parse_refusal(said, _table("-A A -j B"))
    assert (refusal.line, refusal.at_commit) == (3, True)


@pytest.mark.parametrize(
    "said",
    [
        "Can't lock /run/xtables.lock: Resource temporarily unavailable\n"
        "Another app is currently holding the xtables lock. Stopped waiting after 5s.\n",
        "Another app is currently holding the xtables lock. Perhaps you want to use the -w option?",
        "iptables-restore v1.8.9 (nf_tables): \nline 3: CHAIN_ADD failed (Cannot allocate memory)",
    ],
)
def test_what_may_work_the_next_time_is_transient(said: str) -> None:
    assert parse_refusal(said, _table("-A A -j B")).transient


def test_words_without_a_line_of_the_input_name_none() -> None:
    for said in ("iptables-restore: something else", "iptables-restore: line 99 failed"):
        refusal = parse_refusal(said, _table("-A A -j B"))
        assert (refusal.line, refusal.at_commit, refusal.transient) == (None, False, False)
