"""
YAML and JSON text to plain values, remembering what ordinary loaders throw away: where each key
stands, and which keys were written twice (the last one counts, as for kube-proxy).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable

import yaml

from proxy.config.problems import InvalidConfiguration, Problem


class Mapping(dict[str, object]):
    """A mapping of the file, with the line (from 1) of each key and the keys written twice."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, int] = {}
        self.duplicates: list[str] = []

    def put(self, key: str, value: object, line: int | None = None) -> None:
        """Store one entry in the order of the text."""
        if key in self:
            self.duplicates.append(key)
        self[key] = value
        if line is not None:
            self.lines[key] = line


class _Loader(yaml.SafeLoader):
    """Safe YAML without the types that Kubernetes files never mean: dates and base-60 numbers."""

    def __init__(self, text: str, first_line: int | None) -> None:
        super().__init__(text)
        self.first_line = first_line

    def line_of(self, mark: yaml.Mark | None) -> int | None:
        """Return the line of *mark* in the outermost file, or None when that is unknown."""
        if mark is None or self.first_line is None:
            return None
        return mark.line + self.first_line


_INT = re.compile(
    r"^(?:[-+]?0b[01_]+|[-+]?0o?[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$"
)
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> Iterable[Mapping]:
    result = Mapping()
    yield result
    written = {id(key) for key, _ in node.value}
    loader.flatten_mapping(node)
    merged = [pair for pair in node.value if id(pair[0]) not in written]
    own = [pair for pair in node.value if id(pair[0]) in written]
    for key_node, value_node in merged:
        result[_key(loader, key_node)] = loader.construct_object(value_node, deep=True)
    inherited = dict(result)
    result.clear()
    for key_node, value_node in own:
        key = _key(loader, key_node)
        value = loader.construct_object(value_node, deep=True)
        result.put(key, value, loader.line_of(key_node.start_mark))
    for key, value in inherited.items():
        result.setdefault(key, value)


def _key(loader: _Loader, node: yaml.Node) -> str:
    key = loader.construct_object(node, deep=True)
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    raise yaml.constructor.ConstructorError(
        "while reading a mapping", node.start_mark, "found a key that is not text", node.start_mark
    )


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(node.value).replace("_", "")
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    is_old_octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
    return sign * (int(digits, 8) if is_old_octal else int(digits, 0))


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(
        str(node.value).replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan")
    )


def _prepare() -> None:
    _Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] not in (_TIMESTAMP_TAG, *_NUMBER_TAGS)]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _Loader.add_implicit_resolver(_NUMBER_TAGS[0], _INT, list("-+0123456789"))
    _Loader.add_implicit_resolver(_NUMBER_TAGS[1], _FLOAT, list("-+0123456789."))
    _Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
    _Loader.add_constructor(_NUMBER_TAGS[0], _construct_int)
    _Loader.add_constructor(_NUMBER_TAGS[1], _construct_float)


_prepare()


def parse_documents(text: str, first_line: int | None = 1) -> list[object]:
    """
    Return the documents of a YAML or JSON text; empty ones are left out.

    Args:
        text: The text.
        first_line: Line number of its first line; None when line numbers would mislead.

    Raises:
        InvalidConfiguration: It is neither; the problem carries the line.
    """
    if text.lstrip().startswith("{"):
        # JSON may be indented with tabs, which YAML forbids. Flow-style YAML also starts with a
        # brace, so a failure is left to the YAML parser to explain.
        with contextlib.suppress(ValueError, RecursionError):
            return [json.loads(text, object_pairs_hook=_mapping_of_pairs)]
    return [document for document in _yaml_documents(text, first_line) if document is not None]


def _yaml_documents(text: str, first_line: int | None) -> list[object]:
    documents = []
    try:
        loader = _Loader(text, first_line)
        try:
            while loader.check_data():  # type: ignore[no-untyped-call]  # missing in the stubs
                documents.append(loader.get_data())
        except yaml.MarkedYAMLError as error:
            line = loader.line_of(error.problem_mark or error.context_mark)
            raise _syntax_problem(_summary(error), line) from error
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:
        raise _syntax_problem(" ".join(str(error).split()), None) from error
    except RecursionError as error:
        raise _syntax_problem("it is nested too deeply", None) from error
    return documents


def _mapping_of_pairs(pairs: list[tuple[str, object]]) -> Mapping:
    result = Mapping()
    for key, value in pairs:
        result.put(key, value)
    return result


def _summary(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part)


def _syntax_problem(reason: str, line: int | None) -> InvalidConfiguration:
    message = f"neither YAML nor JSON: {reason}"
    return InvalidConfiguration([Problem("", message, "syntax", line=line)])
