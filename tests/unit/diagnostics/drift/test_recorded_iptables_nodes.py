"""Every recorded node of kube-proxy is healthy, with its configuration known or inferred."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import golden
from tests.support.drift_faults import drift_of, said
from tests.support.golden_snapshots import write_snapshot


@pytest.mark.parametrize("config", [True, False], ids=["configured", "inferred"])
@pytest.mark.parametrize("name", golden.names("iptables"))
def test_a_recorded_node_has_no_drift(name: str, config: bool, tmp_path: Path) -> None:
    case = golden.load(name, "iptables")
    for number, step in enumerate(case.steps):
        node = write_snapshot(case, step, tmp_path / str(number), config=config)
        report = drift_of(node)
        assert report.compared > 0
        assert report.differences == (), f"step {number}:\n{said(report)}"
