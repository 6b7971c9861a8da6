"""
Who we are and where the API server is: kubeconfig, exec plugin, token file, in-cluster.

The ``kubernetes`` package turns a kubeconfig into TLS settings, proxies and headers. What
expires is handled here, because it reads a ``tokenFile`` once, forgets the expiry of client
certificates from exec plugins and only logs why a plugin failed: token files are read again
each minute, plugins run again when what they gave expires, and both after a 401.
"""

from __future__ import annotations

import base64
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from proxy.sources.failures import CredentialsError
from proxy.sources.source import ConfigurationError

# Service account tokens are renewed in their file well before they expire.
TOKEN_FILE_REREAD_S = 60.0
# An exec plugin's token is replaced this long before its expiry.
EXPIRY_MARGIN_S = 10.0
SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ApiLocation:
    """
    How the user said where the API server is.

    Both empty means: from within a pod, by its service account. ``master`` alone is a URL
    without credentials; with a kubeconfig it replaces the server's address in it. ``context``
    names one of the kubeconfig's contexts; empty is its current one.
    """

    kubeconfig: str = ""
    master: str = ""
    context: str = ""
    service_account_dir: Path = SERVICE_ACCOUNT_DIR


@dataclass(frozen=True, slots=True)
class Access:
    """
    A usable connection pool; ``expires`` is a time.time(), or None when nothing expires.

    ``configuration`` is the Kubernetes client's, for what does not go through a pool: websockets.
    """

    pool: Any
    host: str
    headers: dict[str, str]
    expires: float | None = None
    configuration: Any = None


class Credentials:
    """
    Gives access to the API server, renewed when it has expired; thread-safe.

    Args:
        location: Where the server is.
        now: The wall clock, in seconds since the epoch: expiry times are absolute.
    """

    def __init__(self, location: ApiLocation, now: Callable[[], float] = time.time) -> None:
        self._location = location
        self._now = now
        self._access: Access | None = None
        self._fingerprint: object = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """
        Look at what can be judged without asking anyone.

        Raises:
            ConfigurationError: The kubeconfig is missing or broken, or there is none and this
                is no pod.
        """
        if self._location.kubeconfig:
            _read_kubeconfig(self._location)
        elif not self._location.master:
            _in_cluster_server()

    def current(self) -> Access:
        """
        Return access that has not expired.

        Raises:
            ConfigurationError: As ``check``.
            CredentialsError: An exec plugin failed or a token file cannot be read.
        """
        with self._lock:
            access = self._access
            if access is None or (access.expires is not None and self._now() >= access.expires):
                access = self._access = self._load()
            return access

    def reject(self, access: Access) -> None:
        """The server did not accept *access*: obtain it anew, on fresh connections."""
        with self._lock:
            if self._access is access:
                self._access = None
                self._fingerprint = None

    def _load(self) -> Access:
        configuration, expires = self._configure()
        if self._location.master:
            configuration.host = _with_scheme(self._location.master, configuration)
        token = configuration.api_key.get("BearerToken")
        headers = {"Authorization": token} if token else {}
        keys = ("host", "ssl_ca_cert", "cert_file", "key_file", "verify_ssl", "tls_server_name")
        fingerprint = [getattr(configuration, key, None) for key in (*keys, "proxy")]
        old = self._access
        if old is not None and fingerprint == self._fingerprint:
            return Access(old.pool, old.host, headers, expires, configuration)
        self._fingerprint = fingerprint
        pool = _pool(configuration)
        return Access(pool, configuration.host, headers, expires, configuration)

    def _configure(self) -> tuple[Any, float | None]:
        from kubernetes.client.configuration import Configuration

        configuration: Any = type.__call__(Configuration)
        if self._location.kubeconfig:
            expires = _apply_kubeconfig(self._location, configuration, self._now())
        elif self._location.master:
            expires = None
        else:
            _apply_service_account(self._location.service_account_dir, configuration)
            expires = self._now() + TOKEN_FILE_REREAD_S
        return configuration, expires


def _pool(configuration: Any) -> Any:
    """Return the urllib3 pool the Kubernetes client would use, tuned for long quiet streams."""
    from kubernetes.client.rest import RESTClientObject
    from urllib3 import disable_warnings
    from urllib3.exceptions import InsecureRequestWarning

    if not configuration.verify_ssl:
        # The user said so in the kubeconfig; a warning per request would bury everything else.
        disable_warnings(InsecureRequestWarning)
    configuration.socket_options = SOCKET_OPTIONS
    configuration.retries = False
    configuration.connection_pool_maxsize = 8
    rest: Any = RESTClientObject(configuration)
    return rest.pool_manager


# A watch is silent for minutes. When the server or a firewall in between vanished without a
# word, the kernel notices within 30 s: probes from 10 s on, or sent data unacknowledged for 30 s.
SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
]


def _with_scheme(master: str, configuration: Any) -> str:
    if "://" in master:
        return master.rstrip("/")
    secured = configuration.ssl_ca_cert or configuration.cert_file
    return f"{'https' if secured else 'http'}://{master.rstrip('/')}"


def _read_kubeconfig(location: ApiLocation) -> dict[str, Any]:
    import yaml

    path = location.kubeconfig
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # Safe: both are loaders of plain data; the C one is a name mypy does not always know.
        config = yaml.load(Path(path).read_bytes(), loader)  # noqa: S506
    except OSError as error:
        raise ConfigurationError(
            f"cannot read kubeconfig {path}: {error.strerror}; check --kubeconfig or "
            "clientConnection.kubeconfig"
        ) from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise ConfigurationError(f"kubeconfig {path} is no YAML: {where}") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"kubeconfig {path} is empty or no mapping")
    if location.context:
        config["current-context"] = location.context
    user_of(config, path)
    return config


def user_of(config: dict[str, Any], path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Return the user and the cluster of the current context; the user may be empty.

    Raises:
        ConfigurationError: Something the context refers to is not there.
    """
    context = _entry(config, "context", config.get("current-context"), path)
    cluster = _entry(config, "cluster", context.get("cluster"), path)
    if not cluster.get("server"):
        name = context.get("cluster")
        raise ConfigurationError(f"kubeconfig {path}: cluster {name!r} has no server")
    user = _entry(config, "user", context.get("user"), path) if context.get("user") else {}
    return user, cluster


def _entry(config: dict[str, Any], kind: str, name: object, path: str) -> dict[str, Any]:
    if not name:
        missing = "current-context" if kind == "context" else f"the current context's {kind}"
        raise ConfigurationError(f"kubeconfig {path}: {missing} is not set")
    entries = config.get(f"{kind}s")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == name:
            value = entry.get(kind)
            if isinstance(value, dict):
                return value
            if value is None:
                return {}
    raise ConfigurationError(f"kubeconfig {path}: there is no {kind} {name!r} in {kind}s")


def _apply_kubeconfig(location: ApiLocation, configuration: Any, now: float) -> float | None:
    """Fill *configuration* from a kubeconfig; return when its credentials expire."""
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.kube_config import KubeConfigLoader

    path = location.kubeconfig
    config = _read_kubeconfig(location)
    user, cluster = user_of(config, path)
    base_dir = str(Path(path).resolve().parent)
    expires = None
    if "exec" in user:
        expires = _run_exec_plugin(user, cluster, base_dir)
    elif "tokenFile" in user:
        user["token"] = _read_token(Path(base_dir, user["tokenFile"]))
        expires = now + TOKEN_FILE_REREAD_S
    loader: Any = KubeConfigLoader
    try:
        loader(config, config_base_path=base_dir).load_and_set(configuration)
    except (ConfigException, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CredentialsError(f"kubeconfig {path}: {error}") from error
    return expires


def _read_token(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CredentialsError(f"cannot read token file {path}: {reason}") from error
    if not token:
        raise CredentialsError(f"token file {path} is empty")
    return token


def _run_exec_plugin(user: dict[str, Any], cluster: dict[str, Any], base_dir: str) -> float | None:
    """Replace ``exec`` in *user* by what the plugin prints; return when that expires."""
    from kubernetes.config.config_exception import ConfigException
    from kubernetes.config.exec_provider import ExecProvider
    from kubernetes.config.kube_config import ConfigNode

    plugin = user.pop("exec")
    command = plugin.get("command") if isinstance(plugin, dict) else None
    provider, node = _untyped(ExecProvider), _untyped(ConfigNode)
    try:
        status = provider(node("exec", plugin), base_dir, node("cluster", cluster)).run()
        expires = _seconds_since_epoch(status.get("expirationTimestamp"))
    except (ConfigException, OSError, ValueError, TypeError, AttributeError) as error:
        raise CredentialsError(f"exec plugin {command!r} failed: {error}") from error
    certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
    if status.get("token"):
        user["token"] = status["token"]
    if certificate and key:
        user["client-certificate-data"] = base64.b64encode(certificate.encode()).decode()
        user["client-key-data"] = base64.b64encode(key.encode()).decode()
    elif not status.get("token"):
        raise CredentialsError(f"exec plugin {command!r} gave neither a token nor a certificate")
    return expires


def _untyped(value: Any) -> Any:
    return value


def _seconds_since_epoch(timestamp: str | None) -> float | None:
    if not timestamp:
        return None
    return datetime.fromisoformat(timestamp).timestamp() - EXPIRY_MARGIN_S


def server_of(location: ApiLocation) -> str:
    """Return the API server's address as it is configured; raises as ``Credentials.check``."""
    if location.master:
        return location.master
    if location.kubeconfig:
        _, cluster = user_of(_read_kubeconfig(location), location.kubeconfig)
        return str(cluster["server"])
    return _in_cluster_server()


def _in_cluster_server() -> str:
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
    if not host or not port:
        raise ConfigurationError(
            "no API server is given and this is no pod (KUBERNETES_SERVICE_HOST is not set): "
            "use --kubeconfig, --master or --manifests"
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _apply_service_account(directory: Path, configuration: Any) -> None:
    configuration.host = _in_cluster_server()
    authority = directory / "ca.crt"
    if not authority.is_file():
        raise CredentialsError(f"the service account's {authority} is missing")
    configuration.ssl_ca_cert = str(authority)
    configuration.api_key["BearerToken"] = f"Bearer {_read_token(directory / 'token')}"
