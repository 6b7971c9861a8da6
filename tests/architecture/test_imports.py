"""What a process must not load: memory on every node, and time before the first answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_COMMAND_LINE = frozenset({"typer", "click", "rich", "textual"})
_HEAVY = frozenset({"kubernetes", "pyroute2", "iptc", "prometheus_api_client", "textual"})


def _loaded(statements: str) -> frozenset[str]:
    """Return the top-level modules that a new interpreter has loaded after *statements*."""
    program = f"import sys\n{statements}\nprint(*{{n.split('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return frozenset(done.stdout.splitlines()[-1].split())


def test_the_node_proxy_loads_no_command_line_and_no_client_library() -> None:
    loaded = _loaded("import kpctl.main, kpctl.commands.run, kpctl.node_proxy, kpctl.dry_run")
    assert {"msgspec", "proxy"} <= loaded
    assert loaded & (_COMMAND_LINE | _HEAVY | {"prometheus_client"}) == frozenset()


@pytest.mark.parametrize("source", ["proxy.sources.kubernetes", "proxy.sources.manifests"])
def test_a_source_loads_the_client_library_only_when_it_connects(source: str) -> None:
    assert _loaded(f"import {source}") & _HEAVY == frozenset()


def test_help_is_answered_without_the_heavy_packages() -> None:
    help_page = """
import contextlib, io, kpctl.main
sys.argv = ["kpctl", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
    kpctl.main.main()
assert "lab" in page.getvalue()
"""
    loaded = _loaded(help_page)
    assert "typer" in loaded
    assert loaded & _HEAVY == frozenset()


def test_every_module_can_be_imported_on_its_own() -> None:
    """No module depends on another one having been imported before it."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("kpctl", "checks", "diagnostics", "proxy")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name != "__main__.py"
    ]
    forget = "[sys.modules.pop(n) for n in list(sys.modules) if n.split('.')[0] in own]"
    assert "proxy" in _loaded(
        f"import importlib\nown = {{'kpctl', 'checks', 'diagnostics', 'proxy'}}\n"
        f"for name in {names!r}:\n    {forget}\n    importlib.import_module(name)"
    )
