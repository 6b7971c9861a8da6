"""
Pods of our own on nodes where no proxy's pod can be used; whatever happens, they go away again.

They have the node's network namespace and the capabilities to list rules, no more: no host files,
no service account, no privileged mode. Each is deleted when its node was read, all of them at the
end and on Ctrl-C; ``activeDeadlineSeconds`` ends those of a kpctl that was killed.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any

from kpctl.all_nodes.api import NodesApi
from kpctl.all_nodes.execute import Container
from proxy.sources.failures import ConnectionFailedError
from proxy.sources.source import SourceError

DEFAULT_IMAGE = "docker.io/nicolaka/netshoot:v0.13"
"""Has iptables, nft, ipset, ipvsadm, conntrack, ip and sysctl."""
LABELS = {"app.kubernetes.io/name": "kpctl-debug", "app.kubernetes.io/managed-by": "kpctl"}
CAPABILITIES = ("NET_ADMIN", "NET_RAW")
_NAME = "kpctl"
_POLL_S = 0.3
_DELETE_TIMEOUT_S = 10.0
_CREATE_TIMEOUT_S = 15.0
_MARGIN_S = 60
# Why a container waits, where waiting longer changes nothing.
_HOPELESS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
     "CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
)  # fmt: skip


def pod_manifest(name: str, node: str, image: str, life_s: int) -> dict[str, Any]:
    """Return the Pod that is created on *node*; it ends by itself after *life_s* seconds."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": LABELS},
        "spec": {
            "nodeName": node,
            "hostNetwork": True,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": life_s,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": _NAME,
                    "image": image,
                    "command": ["sleep", str(life_s)],
                    "securityContext": {
                        "runAsUser": 0,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
                    },
                }
            ],
        },
    }


class DebugPods:
    """
    The debug pods of one run; thread-safe.

    Args:
        api: Creates and deletes them.
        namespace: Where.
        image: What they run.
        life_s: Seconds after which a node's reading is given up.
    """

    def __init__(self, api: NodesApi, namespace: str, image: str, life_s: float) -> None:
        self._api = api
        self._namespace = namespace
        self._image = image
        self._life_s = int(life_s) + _MARGIN_S
        self._names: set[str] = set()
        self._creating = 0
        self._changed = threading.Condition()
        self._closed = threading.Event()

    def start(self, node: str, deadline: float) -> Container:
        """
        Create a pod on *node* and wait until it runs; ``stop`` it afterwards.

        Raises:
            SourceError: It cannot be created, or does not run by *deadline* (time.monotonic()).
        """
        name = f"kpctl-debug-{secrets.token_hex(4)}"
        with self._changed:
            if self._closed.is_set():
                raise ConnectionFailedError("interrupted")
            self._names.add(name)  # before it exists: an answer may get lost
            self._creating += 1
        try:
            manifest = pod_manifest(name, node, self._image, self._life_s)
            self._api.create_pod(self._namespace, manifest)
        finally:
            with self._changed:
                self._creating -= 1
                self._changed.notify_all()
        container = Container(self._namespace, name, _NAME)
        try:
            self._wait(container, deadline)
        except BaseException:
            self.stop(container)
            raise
        return container

    def _wait(self, container: Container, deadline: float) -> None:
        said = "it was not started"
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectionFailedError(f"debug pod {container} does not run: {said}")
            pod = self._api.pod(container.namespace, container.pod, max(left, 0.1))
            running, hopeless, said = _state(pod)
            if running:
                return
            if hopeless:
                raise ConnectionFailedError(f"debug pod {container}: {said}")
            if self._closed.wait(_POLL_S):
                raise ConnectionFailedError("interrupted")

    def stop(self, container: Container) -> str:
        """Delete one pod; return why that was not possible, or ""."""
        try:
            self._api.delete_pod(self._namespace, container.pod, _DELETE_TIMEOUT_S)
        except SourceError as error:
            return f"pod {container} could not be deleted: {error}"
        with self._changed:
            self._names.discard(container.pod)
        return ""

    def close(self) -> list[str]:
        """Delete all that are left, and create none any more; return what did not go away."""
        self._closed.set()
        with self._changed:
            # A request under way could create a pod after its deletion.
            self._changed.wait_for(lambda: not self._creating, _CREATE_TIMEOUT_S)
            names = sorted(self._names)
        said = (self.stop(Container(self._namespace, name, _NAME)) for name in names)
        end = f"; it ends by itself after {self._life_s} s"
        return [text + end for text in said if text]


def _state(pod: dict[str, Any]) -> tuple[bool, bool, str]:
    """Return whether a pod runs, whether it never will, and what is said of it."""
    status = pod.get("status") or {}
    phase = str(status.get("phase", "Pending"))
    states = [one.get("state") or {} for one in status.get("containerStatuses") or ()]
    if phase == "Running" and any("running" in state for state in states):
        return True, False, ""
    if phase in ("Failed", "Succeeded"):
        said = status.get("message") or status.get("reason") or ""
        return False, True, f"it ended at once ({phase}) {said}".strip()
    for waiting in (state.get("waiting") or {} for state in states):
        if reason := waiting.get("reason"):
            said = " ".join(str(waiting.get("message", "")).split())[:300]
            return False, reason in _HOPELESS, f"{reason}: {said}"
    conditions = [one for one in status.get("conditions") or () if one.get("status") == "False"]
    said = "; ".join(str(one.get("message")) for one in conditions if one.get("message"))
    return False, False, said or f"it is {phase}"
