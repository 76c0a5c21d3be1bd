"""Plain data from YAML, as it stands in a config or a profile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from paretax.errors import UsageError, shortened

_DEEPEST = 50  # lists and mappings within one another
_LONGEST = 10_000_000  # bytes of a file
_LARGEST = 100_000  # values, each reference to an anchor counted as what it stands for


def read_yaml(text: str, where: str = "the text") -> Any:
    """Plain data from YAML.

    Numbers are read as YAML 1.2 has them: 1e-4 is a number, 010 is ten, 1:30 is a text.

    Args:
        text: one document.
        where: it comes from, for the error.

    Raises:
        UsageError: it is no YAML, nested too deeply, or too large once its anchors are put in.
    """
    try:
        _check_size(text, where)
        return yaml.load(text, Loader=_Loader)  # a safe loader
    except (yaml.YAMLError, ValueError, TypeError) as error:
        if isinstance(error, UsageError):
            raise
        said = shortened(" ".join(str(error).split()))
        raise UsageError(f"{where} is not YAML: {said}") from None


def _check_size(text: str, where: str) -> None:
    """Go through a document without building it."""
    sizes: dict[str | None, int] = {}  # by anchor, once it is whole
    within: list[list[Any]] = [["", 0]]  # collections that are open: anchor, values so far
    for event in yaml.parse(text, Loader=_Loader):
        size = 0
        if isinstance(event, yaml.CollectionStartEvent):
            within.append([event.anchor, 1])
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = within.pop()
            sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in within):
                raise UsageError(f"{where}: *{event.anchor} stands within itself: write it out")
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            size = sizes[event.anchor] = 1
        within[-1][1] += size
        if len(within) > _DEEPEST:
            raise UsageError(f"{where} is nested more than {_DEEPEST} levels deep: flatten it")
        if within[-1][1] > _LARGEST:
            raise UsageError(f"{where} holds more than {_LARGEST:,} values: make it smaller")


def read_yaml_file(path: Path) -> Any:
    """Plain data from a YAML file; see `read_yaml`.

    Raises:
        UsageError: it cannot be read, or what `read_yaml` refuses.
    """
    try:
        if path.stat().st_size > _LONGEST:
            raise UsageError(f"{str(path)!r} has more than {_LONGEST:,} bytes: make it smaller")
        text = path.read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{str(path)!r} is not YAML: {error}") from None
    return read_yaml(text, repr(str(path)))


class _Loader(yaml.SafeLoader):
    """Plain data only; refuses a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        merge = "tag:yaml.org,2002:merge"  # what is merged in may be overridden
        keys = [self.construct_object(k, deep=True) for k, _ in node.value if k.tag != merge]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.start_mark
                )
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        """A whole number in tens, or in eights or sixteens with its mark."""
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


# YAML 1.2, chapter 10.3.2, and 1_000; PyYAML has 1.1, where 010 is eight and 1:30 is ninety.
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+",
    "tag:yaml.org,2002:float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), list("-+0123456789."))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
