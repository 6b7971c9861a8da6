"""
Configuration files: what ``--config`` accepts.

A KubeProxyConfiguration in YAML or JSON, and also the ConfigMap that carries one, so that
``kubectl get cm kube-proxy -o yaml`` can be used as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from proxy.config import text, types
from proxy.config.convert import config_from_values
from proxy.config.decode import decode_fields, show
from proxy.config.defaults import with_defaults
from proxy.config.problems import InvalidConfiguration, Problem, UnreadableFile

CONFIG_MAP_KEY = "config.conf"  # where kubeadm puts it


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """
    A file that can be used.

    ``config`` has the defaults of the file format, not yet those of the platform. ``warnings``
    are what kube-proxy would only log or, for feature gates, refuse.
    """

    config: types.ProxyConfig
    warnings: tuple[Problem, ...]


def read_text(path: str) -> str:
    """
    Return the content of a UTF-8 file.

    Raises:
        UnreadableFile: It cannot be read; the problem names the path and the reason.
        InvalidConfiguration: It is not UTF-8 text.
    """
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = Problem("", f"not UTF-8 text: byte {error.start} is invalid", "syntax")
        raise InvalidConfiguration([problem]) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem("", f"cannot read {path}: {reason}", "unreadable", path)
        raise UnreadableFile([problem]) from error


def load_file(path: str) -> LoadedFile:
    """Read and load *path*; raises as `read_text` and `load_text` do."""
    return load_text(read_text(path))


def load_text(content: str) -> LoadedFile:
    """
    Return the configuration in a YAML or JSON text, or in a ConfigMap's ``config.conf``.

    Raises:
        InvalidConfiguration: With all syntax and type problems found. Unknown fields, duplicate
            keys and gates without effect are warnings of the result instead.
    """
    document = _configuration_document(content)
    _check_kind(document)
    decoded = decode_fields(document)
    if decoded.errors:
        raise InvalidConfiguration(decoded.errors, decoded.warnings)
    config = config_from_values(with_defaults(decoded.values))
    return LoadedFile(config, tuple(decoded.warnings))


def _configuration_document(content: str) -> text.Mapping:
    documents = [doc for doc in text.parse_documents(content) if isinstance(doc, text.Mapping)]
    for document in documents:
        if document.get("kind") == types.KIND:
            return document
    for document in documents:
        if document.get("kind") == "ConfigMap":
            return _from_config_map(document, content)
    if not documents:
        message = f"no mapping found: a {types.KIND} is expected"
        raise InvalidConfiguration([Problem("", message, "syntax")])
    return documents[0]


def _from_config_map(config_map: text.Mapping, content: str) -> text.Mapping:
    data = config_map.get("data")
    entries = data if isinstance(data, text.Mapping) else text.Mapping()
    key = _config_map_key(entries)
    embedded = entries.get(key)
    if not isinstance(embedded, str):
        found = ", ".join(entries) or "nothing"
        message = f'the ConfigMap has no "{CONFIG_MAP_KEY}" with a {types.KIND}; it has {found}'
        raise InvalidConfiguration([Problem("data", message, "kind")])
    documents = text.parse_documents(embedded, _line_below(entries.lines.get(key), content))
    if not documents or not isinstance(documents[0], text.Mapping):
        message = f"expected the text of a {types.KIND}"
        raise InvalidConfiguration([Problem(f"data.{key}", message, "kind")])
    return documents[0]


def _config_map_key(entries: text.Mapping) -> str:
    holders = [
        key for key, value in entries.items() if isinstance(value, str) and types.KIND in value
    ]
    return CONFIG_MAP_KEY if CONFIG_MAP_KEY in entries or not holders else holders[0]


def _line_below(line: int | None, content: str) -> int | None:
    """Return the line after the key if the embedded text is a block there (``|``), or None."""
    if line is None:
        return None
    header = content.splitlines()[line - 1].rstrip()
    return line + 1 if header.endswith(("|", "|-", "|+")) else None


def _check_kind(document: text.Mapping) -> None:
    problems = []
    for key, expected in (("apiVersion", types.API_VERSION), ("kind", types.KIND)):
        if document.get(key) != expected:
            got = show(document[key]) if document.get(key) else "nothing"
            message = f'expected "{expected}", got {got}'
            line = document.lines.get(key)
            problems.append(Problem(key, message, "kind", document.get(key), line=line))
    if problems:
        raise InvalidConfiguration(problems)


def write_file(path: str, content: str) -> None:
    """
    Write *content* to *path*, replacing what is there.

    Raises:
        UnreadableFile: It cannot be written.
    """
    try:
        Path(path).write_text(content, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem("", f"cannot write {path}: {reason}", "unwritable", path)
        raise UnreadableFile([problem]) from error
