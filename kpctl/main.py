"""The ``kpctl`` program: registers commands and nothing else."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["run"]:
        # kube-proxy's flags are parsed by kube-proxy's rules, which no option library shares; and
        # a node proxy has no use for one in its memory.
        from kpctl.commands.run import run

        sys.exit(run(sys.argv[2:]))
    from kpctl.cli import app

    app(prog_name="kpctl")


if __name__ == "__main__":
    main()
