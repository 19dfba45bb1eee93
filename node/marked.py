"""YAML with its lines: every value is asked for by what it should be, and each fault is noted where it stands.

Nothing is raised on the way, so that all faults of a file are reported at once (`Marked.faults`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from schemas.errors import Fault

# libyaml's parser where the wheel has it: five times as fast, the same marks
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_KINDS = {"str": "a text", "int": "a number", "float": "a number", "bool": "true or false", "null": "nothing"}


class Entry(NamedTuple):
    """A key of a mapping and its value, both with their marks."""

    key: Node
    value: Node


@dataclass
class Marked:
    """A YAML file that is being read, and what is wrong with it so far."""

    name: str
    """The file as the user named it."""
    faults: list[Fault] = field(default_factory=list)

    def parse(self, source: bytes) -> Node | None:
        """The root of the document; None with a fault when it is no YAML, or empty."""
        try:
            root = yaml.compose(source, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            self._note(line, f"not YAML: {error.problem or error.context}", "look at the indentation and the quotes")
            return None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            self._note(1, f"not YAML: {' '.join(str(error).split())}", "save the file as UTF-8 text")
            return None
        if root is None:
            self._note(1, "the file is empty", "the smallest one has network, bus, nodes and exchange")
        return root

    def _note(self, line: int, text: str, hint: str) -> None:
        self.faults.append(Fault(f"{self.name}:{line}", text, hint))

    def fault(self, node: Node, text: str, hint: str = "") -> None:
        self._note(node.start_mark.line + 1, text, hint)

    def mapping(self, node: Node, what: str) -> dict[str, Entry]:
        """The entries of a mapping by key, in order; faults for keys that are doubled or no text."""
        if not isinstance(node, MappingNode):
            self.fault(node, f"{what} has to be a mapping, not {kind_of(node)}", "write it as `key: value` lines")
            return {}
        entries: dict[str, Entry] = {}
        for key, value in self._merged(node):
            name = self.text(key, f"a key of {what}")
            if name is None:  # what depends on it is judged by what was meant
                name = key.value if isinstance(key, ScalarNode) else ""
            if not name:
                continue
            if name in entries:
                self.fault(key, f"{name!r} is there twice in {what}", "remove one of them")
                continue
            entries[name] = Entry(key, value)
        return entries

    def _merged(self, node: MappingNode) -> list[tuple[Node, Node]]:
        """The pairs, with those that `<<` brings in and that are not overridden."""
        own = [pair for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"]
        names = {key.value for key, _ in own if isinstance(key, ScalarNode)}
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                continue
            for source in value.value if isinstance(value, SequenceNode) else [value]:
                if not isinstance(source, MappingNode) or source is node:
                    self.fault(value, "`<<` takes a mapping", "e.g. `<<: *defaults`")
                    continue
                added = [pair for pair in source.value if pair[0].value not in names]
                names.update(pair[0].value for pair in added)
                own = added + own
        return own

    def known(self, entries: Mapping[str, Entry], known: Iterable[str], what: str) -> None:
        """Faults for keys that are not known, with the nearest one that is."""
        for name in entries.keys() - set(known):
            self.fault(entries[name].key, f"unknown key {name!r} in {what}", nearest(name, known))

    def text(self, node: Node, what: str) -> str | None:
        if not isinstance(node, ScalarNode):
            self.fault(node, f"{what} has to be a text, not {kind_of(node)}")
            return None
        if node.tag != "tag:yaml.org,2002:str":
            hint = f'quote it: "{node.value}"' if node.value else "write a text, or leave the key out"
            read_as = f"{node.value} is read by YAML as {kind_of(node)}" if node.value else "it is empty"
            self.fault(node, f"{what} has to be a text; {read_as}", hint)
            return None
        if not node.value.strip():
            self.fault(node, f"{what} is empty", "write a text, or leave the key out")
            return None
        return str(node.value)

    def plain(self, node: Node, what: str) -> str | None:
        """A scalar of any kind as it is written, for settings that somebody else understands."""
        if not isinstance(node, ScalarNode):
            self.fault(node, f"{what} has to be one value, not {kind_of(node)}")
            return None
        return str(node.value)

    def texts(self, node: Node, what: str, *, may_be_empty: bool = False) -> tuple[str, ...]:
        """A text or a list of texts; each only once."""
        nodes = node.value if isinstance(node, SequenceNode) else [node]
        if not nodes and not may_be_empty:
            self.fault(node, f"{what} names nothing", "name it, or leave the key out")
        found = [text for n in nodes if (text := self.text(n, what)) is not None]
        for position, text in enumerate(found):
            if text in found[:position]:
                self.fault(node, f"{text!r} is there twice in {what}")
        return tuple(dict.fromkeys(found))

    def text_map(self, node: Node, what: str) -> dict[str, str]:
        pairs = ((name, self.text(e.value, f"{what}.{name}")) for name, e in self.mapping(node, what).items())
        return {name: text for name, text in pairs if text is not None}

    def texts_map(self, node: Node, what: str) -> dict[str, tuple[str, ...]]:
        return {name: self.texts(e.value, f"{what}.{name}") for name, e in self.mapping(node, what).items()}

    def boolean(self, node: Node, what: str) -> bool | None:
        if not isinstance(node, ScalarNode) or node.tag != "tag:yaml.org,2002:bool":
            self.fault(node, f"{what} has to be true or false, not {kind_of(node)}")
            return None
        return str(node.value).lower() in ("true", "yes", "on")

    def integer(self, node: Node, what: str, least: int) -> int | None:
        """A decimal number of at least `least`."""
        number = str(node.value) if isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:int" else ""
        plain = number.replace("_", "").removeprefix("+")
        if not plain.removeprefix("-").isdecimal():
            self.fault(node, f"{what} has to be a whole number, not {kind_of(node)}", "without quotes, e.g. 4")
            return None
        if int(plain) < least:
            self.fault(node, f"{what} is {plain}, it has to be at least {least}")
            return None
        return int(plain)


def kind_of(node: Node) -> str:
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    return _KINDS.get(node.tag.rpartition(":")[2], f"a {node.tag.rpartition(':')[2]}")


def _looks(name: str) -> str:
    """What people take for the same: 0 and O, small and capital letters."""
    return name.upper().replace("O", "0").replace("I", "1")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint: the known name that was probably meant, or all of them where they are few."""
    names = sorted(known)
    close = [n for n in names if _looks(n) == _looks(name)] or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"there are: {', '.join(names)}" if 0 < len(names) <= 30 else ""
