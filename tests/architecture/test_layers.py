"""The import contracts of pyproject.toml hold, and they would notice if they did not."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _configuration() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_of_the_proxy_has_its_layer() -> None:
    """A package outside the layers could import whatever it likes."""
    contracts = _configuration()["contracts"]
    inside = next(c for c in contracts if c.get("containers") == ["proxy"])
    layers = {name for line in inside["layers"] for name in line.split(" | ")}
    packages = {path.parent.name for path in (ROOT / "proxy").glob("*/__init__.py")}
    assert packages == layers
