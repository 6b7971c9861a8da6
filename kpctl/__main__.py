"""Makes ``python -m kpctl`` the same as ``kpctl``."""

from kpctl.main import main

main()
