"""Which kpctl this is."""

from __future__ import annotations

from functools import cache

from proxy.config.types import KUBERNETES_VERSION


@cache
def kpctl_version() -> str:
    """Return the installed distribution's version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("kpctl")
    except PackageNotFoundError:
        return "0.0.0"


def kubernetes_version() -> str:
    """Return the Kubernetes release whose kube-proxy is reproduced, as ``v1.36.0``."""
    major, minor = KUBERNETES_VERSION
    return f"v{major}.{minor}.0"
