"""nodes.yaml: read, checked, and every fault reported at once with its line.

    nodes.yaml -> read_network -> schemas.network.Network

`${VAR}` stays in the network as it is written, so that a file with all nodes' passwords can be read anywhere; it is
filled in by `database_url`, `bus_url` and `kafka_settings`, for the node that is opened.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from yaml.nodes import MappingNode, Node, ScalarNode

from node.marked import Entry, Marked, nearest
from schemas.errors import ConfigError
from schemas.network import CompositeSettings, LookupSettings, Network, NodeSettings, TypeSettings
from schemas.package import XML_TYPES

_CODE = re.compile(r"[0-9A-Z]{2,8}", re.ASCII)
_NETWORK = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", re.ASCII)
_URL = re.compile(r"([a-z][a-z0-9]*)(?:\+([a-z0-9_]+))?://(.*)", re.ASCII | re.DOTALL)
_BROKER = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", re.ASCII)
_TYPE = re.compile(r"[^\W\d][\w.\-]*")

_TOP_KEYS = ("network", "bus", "package", "hooks", "state", "nodes", "exchange", "kafka")
_LIMITS = {  # setting of a node: the least that makes sense
    "send_streams_max": 0,
    "receive_streams_max": 0,
    "portion_items_max": 1,
    "message_items_max": 1,
    "message_bytes_max": 1024,
    "stream_items_min": 1,
    "receive_portion_messages_max": 1,
    "clock_skew_max_s": 0,
    "heartbeat_s": 1,
    "tombstones_kept_days": 1,
}
_NODE_KEYS = (
    "name",
    "parent",
    "database",
    "exchange",
    "identity",
    "signature_key",
    "signature_key_file",
    *_LIMITS,
)
_TYPE_KEYS = (
    "table",
    "reference_data",
    "owner",
    "access",
    "access_from",
    "view_of",
    "filter",
    "sections",
    "columns",
    "references",
    "optional",
    "exclude",
    "collision",
    "date",
    "composite",
    "enums",
    "predefined",
    "exceptions",
    "formerly",
)
_SAME_EVERYWHERE = ("reference_data", "owner", "filter", "collision", "formerly", "predefined")


def read_network(path: str | Path, *, started: str | None = None, package_needed: bool = True) -> Network:
    """The network that nodes.yaml describes.

    `started` is the node that is to be opened: it has to be there, and so have its variables. `package_needed` is
    False only for `kod schema generate`, which writes the file.

    Raises ConfigError with all faults (`.faults`), each with its line.
    """
    path = Path(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}",
            hint="name the file with -c, or go to its folder; `kod demo` makes one",
        ) from None
    reading = _Reading(Marked(str(path)), path.absolute(), package_needed)
    root = reading.marked.parse(source)
    network = reading.network(root) if root is not None else None
    if network is not None and started is not None:
        reading.started(network, started)
    faults = sorted(reading.marked.faults, key=lambda f: int(f.where.rpartition(":")[2]))
    if faults or network is None:
        count = f"{len(faults)} faults" if len(faults) != 1 else "1 fault"
        raise ConfigError(f"{path}: {count}", faults=faults)
    return network


# --- what is filled in only for the node that is opened ------------------------------------------------------------


def node_settings(network: Network, code: str) -> NodeSettings:
    """The settings of a node. Raises ConfigError when there is no such node."""
    try:
        return network.nodes[code]
    except KeyError:
        raise ConfigError(
            f"{network.path.name}: there is no node {code!r}", hint=nearest(code, network.nodes)
        ) from None


def database_url(network: Network, code: str) -> str:
    """The node's database URL, ready to be opened: variables filled in, SQLite's path made absolute.

    Raises ConfigError that names a missing variable and the node.
    """
    url = _filled_in(node_settings(network, code).database, f"node {code!r}: database", network)
    problem = _database_problem(url)
    if problem:
        raise ConfigError(f"{network.path.name}: node {code!r}: {problem[0]}", hint=problem[1])
    kind, driver, rest = _URL.fullmatch(url).groups()  # type: ignore[union-attr]
    if kind == "postgresql":
        return f"postgresql+{driver or 'psycopg'}://{rest}"
    if kind in _MARIADB:
        return f"{kind}+{driver or 'pymysql'}://{rest}"
    file, question, options = rest.removeprefix("/").partition("?")
    return f"sqlite:///{network.path.parent / file}{question}{options}"


def bus_url(network: Network, code: str) -> str:
    """The bus, ready to be opened: variables filled in, a folder's path made absolute."""
    bus = _filled_in(network.bus, f"node {code!r}: bus", network)
    problem = _bus_problem(bus)
    if problem:
        raise ConfigError(f"{network.path.name}: {problem[0]}", hint=problem[1])
    return _absolute_bus(bus, network.path.parent)


def kafka_settings(network: Network, code: str) -> dict[str, str]:
    """librdkafka's settings, variables filled in."""
    return {name: _filled_in(value, f"node {code!r}: kafka.{name}", network) for name, value in network.kafka.items()}


def signature_keys(network: Network, code: str) -> dict[str, bytes]:
    """The keys of a node's links, by neighbour, of those that have one.

    Raises ConfigError that names a missing variable or file; never a key."""
    keys = {}
    for neighbour in network.topology.neighbours(code):
        child = network.nodes[code if neighbour == network.nodes[code].parent else neighbour]
        key = _signature_key(network, child)
        if key is not None:
            keys[neighbour] = key
    return keys


def _signature_key(network: Network, child: NodeSettings) -> bytes | None:
    what = f"node {child.code!r}: signature_key"
    if child.signature_key_file is not None:
        try:
            key = child.signature_key_file.read_bytes().strip()
        except OSError as error:
            raise ConfigError(
                f"{network.path.name}: {what}_file: {child.signature_key_file}: {error.strerror}",
                hint="both ends of the link need the same key in a file that only the daemon reads",
            ) from None
    elif child.signature_key is not None:
        key = _filled_in(child.signature_key, what, network).encode()
    else:
        return None
    if not key:
        raise ConfigError(f"{network.path.name}: {what} is empty", hint="e.g. what `openssl rand -hex 32` prints")
    return key


def filled_in(network: Network, code: str) -> Network:
    """The network as the node that is opened needs it: bus and Kafka's settings with their variables filled in."""
    return replace(network, bus=bus_url(network, code), kafka=kafka_settings(network, code))


def masked(url: str) -> str:
    """A URL as it may be shown: without its password."""
    url = re.sub(r"(://[^/@?#]*?:)(.*)(@)", r"\1***\3", url)
    return re.sub(r"([?&](?:password|passfile|sslpassword)=)[^&]*", r"\1***", url)


def _filled_in(text: str, what: str, network: Network) -> str:
    missing = [name for name in _VARIABLE.findall(text) if name not in os.environ]
    if missing:
        raise ConfigError(
            f"{network.path.name}: {what}: the variable {missing[0]} is not set", hint=f"export {missing[0]}=…"
        )
    user, at, rest = text.rpartition("@")
    if "://" in user:  # a password may bear what has a meaning in URLs
        user = _VARIABLE.sub(lambda found: quote(os.environ[found[1]], safe=""), user)
        return user + at + _VARIABLE.sub(lambda found: os.environ[found[1]], rest)
    return _VARIABLE.sub(lambda found: os.environ[found[1]], text)


# --- URLs -----------------------------------------------------------------------------------------------------------

_Problem = tuple[str, str]

_DRIVERS = {"postgresql": "psycopg", "sqlite": "pysqlite", "mariadb": "pymysql", "mysql": "pymysql"}
_MARIADB = ("mariadb", "mysql")
_PORTS = {"postgresql": ":5432", "mariadb": ":3306", "mysql": ":3306"}


def _database_problem(url: str) -> _Problem | None:
    """What is wrong with a database's URL, and a hint. One that begins with a variable is judged once it is known."""
    if url.startswith("${"):
        return None
    found = _URL.fullmatch(url)
    example = "e.g. postgresql+psycopg://user@host/name, mariadb+pymysql://user@host/name or sqlite:///file.sqlite"
    if not found:
        return f"{masked(url)!r} is no database URL", example
    kind, driver, rest = found.groups()
    if kind == "postgres":
        return "a database URL begins with postgresql, not postgres", example
    if kind not in _DRIVERS:
        return f"databases of the kind {kind!r} are not supported", "postgresql, sqlite or mariadb"
    if driver not in (None, _DRIVERS[kind]):
        return f"the driver {driver!r} is not used here", "postgresql+psycopg://, mariadb+pymysql:// or sqlite:///"
    if kind == "sqlite":
        return _sqlite_problem(rest)
    _, _, name = rest.partition("?")[0].rpartition("@")[2].partition("/")
    return None if name else (f"{masked(url)!r} does not name a database", example)


def _place(url: str, base: Path) -> str | None:
    """Where a database is, without the user that opens it; None where that is told only by variables."""
    found = _URL.fullmatch(url)
    if not found or _database_problem(url):
        return None
    kind, _, rest = found.groups()
    if kind == "sqlite":
        rest = os.path.normpath(base / rest.removeprefix("/").partition("?")[0])
    else:
        host, _, name = rest.rpartition("@")[2].partition("/")
        rest = f"{host.lower().removesuffix(_PORTS[kind])}/{name}"
        kind = "mariadb" if kind in _MARIADB else kind
    return None if _VARIABLE.search(rest) else f"{kind}:{rest}"


def _sqlite_problem(rest: str) -> _Problem | None:
    if rest in ("", "/") or rest.startswith("/:memory:"):
        return "a node's database cannot be in memory only", "name a file: sqlite:///file.sqlite"
    if not rest.startswith("/"):
        return "a SQLite URL has three slashes before the path", f"sqlite:///{rest}"
    return None


def _bus_problem(bus: str) -> _Problem | None:
    if bus.startswith("${"):
        return None
    if bus.startswith("folder:"):
        return None if bus.removeprefix("folder:").strip() else ("the bus names no folder", "e.g. folder:./exchange")
    if not bus.startswith("kafka://"):
        return (
            f"{masked(bus)!r} is no bus",
            "folder:./exchange, or kafka://broker-1:9092,broker-2:9092",
        )
    for broker in bus.removeprefix("kafka://").rstrip("/").split(","):
        found = _BROKER.fullmatch(broker)
        if not _VARIABLE.search(broker) and (not found or not 0 < int(found[1]) < 65536):
            return f"{broker!r} is no broker's address", "host:port, e.g. kafka://broker-1:9092,broker-2:9092"
    return None


def _absolute_bus(bus: str, base: Path) -> str:
    if not bus.startswith("folder:"):
        return bus
    folder = bus.removeprefix("folder:")
    if folder.startswith("///"):
        folder = folder.removeprefix("//")
    return f"folder:{os.path.normpath(base / folder)}"


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass
class _Reading:
    """One reading of a file: the YAML, and where it lies."""

    marked: Marked
    path: Path
    package_needed: bool
    lines: dict[str, Node] = field(default_factory=dict)
    """Where each node's database is written, and the bus, for faults that are found late."""
    type_names: frozenset[str] = frozenset()
    """The types of the exchange, also those whose settings are faulty."""

    def network(self, root: Node) -> Network | None:
        marked = self.marked
        entries = marked.mapping(root, "nodes.yaml")
        marked.known(entries, _TOP_KEYS, "nodes.yaml")
        for name in ("network", "bus", "nodes", "exchange"):
            if name not in entries and isinstance(root, MappingNode):
                marked.fault(root, f"{name!r} is missing", f"add `{name}:` at the top level")
        name = self._optional(entries, "network", self._network_name)
        bus = self._optional(entries, "bus", self._bus)
        package = self._file(entries, "package", needed=self.package_needed)
        hooks = self._file(entries, "hooks", needed=True)
        state = self._file(entries, "state", needed=False)
        kafka = self._kafka(entries["kafka"].value) if "kafka" in entries else {}
        exchange = self._exchange(entries["exchange"].value) if "exchange" in entries else {}
        nodes = self._nodes(entries["nodes"], exchange) if "nodes" in entries else {}
        if marked.faults:
            return None
        return Network(
            name=name or "",
            bus=bus or "",
            nodes=nodes,
            path=self.path,
            package=package,
            hooks=hooks,
            kafka=kafka,
            state=state or self.path.parent / ".kod",
        )

    def started(self, network: Network, code: str) -> None:
        if code not in network.nodes:
            self.marked.fault(self.lines["nodes"], f"there is no node {code!r}", nearest(code, network.nodes))
            return
        for what in (f"database of {code}", "bus"):
            for name in _VARIABLE.findall(getattr(self.lines[what], "value", "")):
                if name not in os.environ:
                    text = f"{what.split()[0]} of node {code!r} needs the variable {name}, which is not set"
                    self.marked.fault(self.lines[what], text, f"export {name}=…")

    def _optional(self, entries: Mapping[str, Entry], name: str, read: Callable[[Node], Any]) -> Any:
        return read(entries[name].value) if name in entries else None

    def _network_name(self, node: Node) -> str | None:
        name = self.marked.text(node, "network")
        if name is not None and not _NETWORK.fullmatch(name):
            self.marked.fault(node, f"{name!r} is no name for a network", "small letters, digits and -: e.g. retail")
        return name

    def _bus(self, node: Node) -> str | None:
        self.lines["bus"] = node
        bus = self.marked.text(node, "bus")
        if bus is None:
            return None
        problem = _bus_problem(bus)
        if problem:
            self.marked.fault(node, *problem)
        return bus if _VARIABLE.search(bus) else _absolute_bus(bus, self.path.parent)

    def _file(self, entries: Mapping[str, Entry], name: str, *, needed: bool) -> Path | None:
        if name not in entries:
            return None
        node = entries[name].value
        text = self.marked.text(node, name)
        if text is None:
            return None
        path = Path(os.path.normpath(self.path.parent / text))
        if needed and not path.is_file():
            hint = "`kod schema generate` writes it" if name == "package" else "paths are relative to nodes.yaml"
            self.marked.fault(node, f"{name}: there is no file {text}", hint)
        return path

    def _kafka(self, node: Node) -> dict[str, str]:
        entries = self.marked.mapping(node, "kafka")
        values = {name: self.marked.plain(e.value, f"kafka.{name}") for name, e in entries.items()}
        return {name: value for name, value in values.items() if value is not None}

    # --- nodes ---

    def _nodes(self, entry: Entry, exchange: dict[str, TypeSettings]) -> dict[str, NodeSettings]:
        marked = self.marked
        self.lines["nodes"] = entry.key
        entries = marked.mapping(entry.value, "nodes")
        if not entries and isinstance(entry.value, MappingNode) and not entry.value.value:
            marked.fault(entry.key, "there are no nodes", "two at least make an exchange")
        for code, (key, _) in entries.items():
            if not _CODE.fullmatch(code):
                marked.fault(key, f"{code!r} is no code of a node", "2 to 8 of 0-9 and A-Z, in quotes")
        nodes = {code: self._node(code, e, exchange) for code, e in entries.items()}
        settings = {code: marked_keys(self.marked, e.value) for code, e in entries.items()}
        self._tree(nodes, entries, settings)
        self._identities(nodes, settings)
        self._databases(nodes)
        return nodes

    def _node(self, code: str, entry: Entry, exchange: dict[str, TypeSettings]) -> NodeSettings:
        marked, what = self.marked, f"node {code!r}"
        entries = marked.mapping(entry.value, what)
        marked.known(entries, _NODE_KEYS, what)
        if "database" not in entries and isinstance(entry.value, MappingNode):
            marked.fault(entry.key, f"{what} has no database", "e.g. database: sqlite:///kazan.sqlite")
        limits = {
            name: number
            for name, least in _LIMITS.items()
            if name in entries and (number := marked.integer(entries[name].value, f"{what}: {name}", least)) is not None
        }
        name = self._optional(entries, "name", lambda node: marked.text(node, f"{what}: name"))
        key, key_file = self._signature_key(entries, what)
        return NodeSettings(
            code=code,
            name=name or code,
            parent=self._optional(entries, "parent", lambda node: marked.text(node, f"{what}: parent")),
            database=self._optional(entries, "database", lambda node: self._database(code, node)) or "",
            exchange=self._own_exchange(code, entries, exchange),
            identity=self._optional(entries, "identity", lambda node: self._identity(code, node)),
            signature_key=key,
            signature_key_file=key_file,
            **limits,
        )

    def _signature_key(self, entries: Mapping[str, Entry], what: str) -> tuple[str | None, Path | None]:
        """The key of the link to the parent: given, or in a file."""
        names = [name for name in ("signature_key", "signature_key_file") if name in entries]
        for name in names:
            if "parent" not in entries:
                text = f"{what} has {name} and no parent"
                self.marked.fault(entries[name].key, text, "it is of the link to the parent: say it at the child")
        if len(names) == 2:
            self.marked.fault(entries[names[1]].key, f"{what} has {names[0]} and {names[1]}", "one of them")
        key, file = (
            self._optional(entries, name, lambda node, name=name: self.marked.text(node, f"{what}: {name}"))  # type: ignore[misc]
            for name in ("signature_key", "signature_key_file")
        )
        return key, self.path.parent / file if file is not None else None

    def _database(self, code: str, node: Node) -> str | None:
        self.lines[f"database of {code}"] = node
        url = self.marked.text(node, f"node {code!r}: database")
        problem = _database_problem(url) if url is not None else None
        if problem:
            self.marked.fault(node, f"node {code!r}: {problem[0]}", problem[1])
        return url

    def _identity(self, code: str, node: Node) -> tuple[int, int] | None:
        marked, what = self.marked, f"node {code!r}: identity"
        entries = marked.mapping(node, what)
        marked.known(entries, ("step", "offset"), what)
        numbers = [
            marked.integer(entries[name].value, f"{what}.{name}", least) if name in entries else None
            for name, least in (("step", 1), ("offset", 0))
        ]
        if not entries.keys() >= {"step", "offset"} and isinstance(node, MappingNode):
            marked.fault(node, f"{what} needs step and offset", "e.g. identity: {step: 10, offset: 1}")
        step, offset = numbers
        if step is None or offset is None:
            return None
        if offset > step:
            marked.fault(node, f"{what}: the offset {offset} is larger than the step {step}")
        return step, offset

    def _identities(self, nodes: dict[str, NodeSettings], settings: Mapping[str, Mapping[str, Entry]]) -> None:
        """Two nodes whose generated keys could meet: their progressions have a number in common."""
        with_identity = [(code, node.identity) for code, node in nodes.items() if node.identity]
        for position, (code, (step, offset)) in enumerate(with_identity):
            for other, (other_step, other_offset) in with_identity[:position]:
                if (offset - other_offset) % math.gcd(step, other_step) == 0:
                    self.marked.fault(
                        settings[code]["identity"].value,
                        f"nodes {other!r} and {code!r} would generate the same keys",
                        "the same step for all, another offset for each",
                    )

    def _databases(self, nodes: Mapping[str, NodeSettings]) -> None:
        """Two nodes in one database would be one set of registers with two codes."""
        first: dict[str, str] = {}
        for code, node in nodes.items():
            place = _place(node.database, self.path.parent)
            other = first.setdefault(place, code) if place else code
            if other != code:
                self.marked.fault(
                    self.lines[f"database of {code}"],
                    f"nodes {other!r} and {code!r} have the same database",
                    "each node has a database of its own",
                )

    def _tree(
        self, nodes: dict[str, NodeSettings], entries: Mapping[str, Entry], settings: Mapping[str, Mapping[str, Entry]]
    ) -> None:
        """One root, every parent a node, no circles."""
        marked = self.marked
        unknown = False
        for code, node in nodes.items():
            if node.parent is not None and node.parent not in nodes:
                unknown = True
                text = f"node {code!r} has parent {node.parent!r}, which is not a node"
                marked.fault(settings[code]["parent"].value, text, nearest(node.parent, nodes))
        roots = [code for code, node in nodes.items() if node.parent is None and "parent" not in settings[code]]
        for code in roots[1:]:
            marked.fault(
                entries[code].key,
                f"node {code!r} has no parent, like node {roots[0]!r}: there can be one root only",
                f'give it a parent, e.g. parent: "{roots[0]}"',
            )
        circles = _circles({code: node.parent for code, node in nodes.items()})
        for circle in circles:
            way = " -> ".join([*circle, circle[0]])
            marked.fault(
                settings[circle[0]]["parent"].value,
                f"nodes are each other's parents: {way}",
                "nodes form a tree: one of them has to have another parent, or none",
            )
        if nodes and not roots and not circles and not unknown and not marked.faults:
            marked.fault(next(iter(entries.values())).key, "no node is the root", "leave `parent` out at one node")

    # --- what takes part ---

    def _exchange(self, node: Node) -> dict[str, TypeSettings]:
        marked = self.marked
        entries = marked.mapping(node, "exchange")
        if not entries and isinstance(node, MappingNode) and not node.value:
            marked.fault(node, "no type takes part", "e.g. Catalog.Product: {table: products, reference_data: true}")
        self.type_names = frozenset(entries)
        types: dict[str, TypeSettings] = {}
        settings: dict[str, Mapping[str, Entry]] = {}
        for name, (key, value) in entries.items():
            if not _TYPE.fullmatch(name):
                marked.fault(key, f"{name!r} is no type's name", "an XML name, e.g. Catalog.Product")
            if not isinstance(value, MappingNode):
                marked.fault(value, f"type {name} has to be a mapping", f"e.g. {name}: {{table: products}}")
                continue
            settings[name] = marked_keys(marked, value)
            types[name] = self._type(name, value, f"type {name}", TypeSettings(name, ""))
            if "table" not in settings[name]:
                marked.fault(key, f"type {name} has no table", f"e.g. {name}: {{table: products}}")
        for name in types:
            self._contradictions(types[name], settings[name], f"type {name}")
            self._targets(types[name], settings[name], f"type {name}")
        self._tables_once(types, settings, "")
        return types

    def _type(self, name: str, node: Node, what: str, base: TypeSettings) -> TypeSettings:
        """A type's settings over those of `base`; mappings are merged key by key."""
        marked = self.marked
        entries = marked.mapping(node, what)
        marked.known(entries, _TYPE_KEYS, what)
        found: dict[str, Any] = {}
        for key, (_, value) in entries.items():
            where = f"{what}: {key}"
            if key in ("table", "access", "date", "predefined"):
                found[key] = marked.text(value, where)
            elif key == "reference_data":
                found[key] = marked.boolean(value, where)
            elif key in (
                "access_from",
                "owner",
                "optional",
                "exclude",
                "formerly",
            ):
                found[key] = marked.texts(value, where)
            elif key == "exceptions":
                found[key] = {**base.exceptions, **self._exceptions(value, where)}
            elif key in ("columns", "references"):
                found[key] = {**getattr(base, key), **marked.text_map(value, where)}
            elif key == "filter":
                found[key] = marked.texts(value, where, may_be_empty=True)
            elif key == "view_of":
                found[key] = marked.texts_map(value, where)
            elif key == "composite":
                found[key] = {**base.composite, **self._composites(value, where)}
            elif key == "enums":
                found[key] = {**base.enums, **self._enums(value, where)}
            elif key == "sections":
                tables, orders = self._sections(value, where)
                found[key] = {**base.sections, **tables}
                kept = {s: c for s, c in base.section_order.items() if s not in tables}
                found["section_order"] = {**kept, **orders}
            elif key == "collision":
                found[key] = self._collision(value, where)
        return replace(base, **{key: value for key, value in found.items() if value is not None})

    def _exceptions(self, node: Node, what: str) -> dict[str, str]:
        """`[property, …]`, or `{property: why}`."""
        if isinstance(node, MappingNode):
            return self.marked.text_map(node, what)
        return dict.fromkeys(self.marked.texts(node, what) or (), "")

    def _composites(self, node: Node, what: str) -> dict[str, CompositeSettings]:
        """`{type: column, values: {Type: column}, says: {Type: text}}`, or `{json: column, types: [Type, …]}`."""
        marked = self.marked
        found = {}
        for name, (key, value) in marked.mapping(node, what).items():
            where = f"{what}.{name}"
            entries = marked.mapping(value, where)
            marked.known(entries, ("type", "values", "says", "json", "types"), where)
            by_json, by_type = {"json", "types"}, {"type", "values"}
            wanted = by_json if "json" in entries else by_type
            if isinstance(value, MappingNode) and (
                not wanted <= entries.keys() or entries.keys() - wanted - ({"says"} if wanted is by_type else set())
            ):
                marked.fault(
                    key,
                    f"{where} is neither a type column with value columns nor one column of JSON",
                    "{type: column, values: {Catalog.Product: column, string: column}}, or"
                    " {json: column, types: [Catalog.Product, string]}",
                )
                continue
            one = CompositeSettings(
                type_column=self._optional(entries, "type", lambda n, w=where: marked.text(n, f"{w}.type")) or "",  # type: ignore[misc]
                values=marked.text_map(entries["values"].value, f"{where}.values") if "values" in entries else {},
                says=marked.text_map(entries["says"].value, f"{where}.says") if "says" in entries else {},
                json=self._optional(entries, "json", lambda n, w=where: marked.text(n, f"{w}.json")) or "",  # type: ignore[misc]
                types=marked.texts(entries["types"].value, f"{where}.types") if "types" in entries else (),
            )
            for strange in one.says.keys() - one.values.keys():
                marked.fault(key, f"{where}.says names {strange!r}, which has no column in `values`", "name its column")
            said = [one.says.get(name, name) for name in one.values]
            if len(set(said)) < len(said):
                marked.fault(key, f"{where}.says: two types are said by the same text", "a text of its own for each")
            if one.type_column and one.type_column in one.values.values():
                marked.fault(key, f"{where}: the type and a value are in one column", "columns of their own")
            found[name] = one
        return found

    def _enums(self, node: Node, what: str) -> dict[str, tuple[str, ...] | LookupSettings]:
        """The only values, or the table that has them: `{table: statuses, name: code, key: id}`."""
        marked = self.marked
        found: dict[str, tuple[str, ...] | LookupSettings] = {}
        for name, (key, value) in marked.mapping(node, what).items():
            where = f"{what}.{name}"
            if not isinstance(value, MappingNode):
                found[name] = marked.texts(value, where)
                continue
            entries = marked.mapping(value, where)
            marked.known(entries, ("table", "name", "key"), where)
            texts = {n: marked.text(e.value, f"{where}.{n}") for n, e in entries.items()}
            if not texts.get("table") or not texts.get("name"):
                marked.fault(key, f"{where} needs a table and the column of its names", "{table: statuses, name: code}")
                continue
            found[name] = LookupSettings(str(texts["table"]), str(texts["name"]), texts.get("key"))
        return found

    def _collision(self, node: Node, what: str) -> str | None:
        policy = self.marked.text(node, what)
        if policy is not None and policy not in ("newest", "parent"):
            self.marked.fault(node, f"{what}: {policy!r} is no policy", "newest or parent")
            return None
        return policy

    def _sections(self, node: Node, what: str) -> tuple[dict[str, str], dict[str, str]]:
        """Tables of sections, and the columns that order their rows: `lines: table`, or `{table: …, order: …}`."""
        marked = self.marked
        tables: dict[str, str | None] = {}
        orders: dict[str, str | None] = {}
        for name, (key, value) in marked.mapping(node, what).items():
            where = f"{what}.{name}"
            if not isinstance(value, MappingNode):
                tables[name] = marked.text(value, where)
                continue
            entries = marked.mapping(value, where)
            marked.known(entries, ("table", "order"), where)
            if "table" not in entries:
                marked.fault(key, f"{where} has no table", f"e.g. {name}: {{table: order_details, order: line}}")
            tables[name] = marked.text(entries["table"].value, f"{where}.table") if "table" in entries else None
            orders[name] = marked.text(entries["order"].value, f"{where}.order") if "order" in entries else None
        return {n: t for n, t in tables.items() if t}, {n: c for n, c in orders.items() if c}

    def _contradictions(self, settings: TypeSettings, entries: Mapping[str, Entry], what: str) -> None:
        marked = self.marked

        def fault(key: str, text: str, hint: str) -> None:
            marked.fault(entries[key].key if key in entries else next(iter(entries.values())).key, text, hint)

        if settings.reference_data and settings.owner:
            fault("owner", f"{what} is reference data and has an owner", "reference data goes everywhere: drop one")
        if settings.reference_data and settings.access:
            fault("access", f"{what} is reference data and has access", "reference data goes everywhere: drop one")
        if settings.owner and settings.access:
            fault("access", f"{what} has an owner and access", "it goes where its owner goes: drop one")
        if settings.access_from and not settings.access:
            fault("access_from", f"{what} has access_from and no access", "it names the tables that access is made of")
        if settings.filter is not None and settings.sections:
            fault("sections", f"{what} is a record set (filter) and has sections", "only objects have sections")
        for key in ("filter", "owner"):
            for name in set(getattr(settings, key) or ()) & set(settings.exclude):
                fault("exclude", f"{what}: {name!r} is in {key} and excluded", "it has to travel")
        for name in set(settings.sections) & set(settings.columns):
            fault("sections", f"{what}: {name!r} is a section and a column", "give one of them another name")
        for name in _doubles((prop.rpartition(".")[0], column) for prop, column in settings.columns.items()):
            fault("columns", f"{what}: two properties are the column {name[1]!r}", "each column is one property")
        for name in _doubles(settings.sections.values()):
            fault("sections", f"{what}: two sections are the table {name!r}", "each table is one section")

    def _targets(self, settings: TypeSettings, entries: Mapping[str, Entry], what: str) -> None:
        """Types that references and composites name, and sections that are named by `section.column`."""
        for key, found in (
            ("references", [(name, target) for name, target in settings.references.items()]),
            ("composite", [(name, t) for name, one in settings.composite.items() for t in one.all_types]),
        ):
            for name, target in found:
                if (
                    key in entries
                    and target not in self.type_names
                    and not (key == "composite" and target in XML_TYPES)
                ):
                    text = f"{what}: {key}.{name} names {target!r}, which is no type of the exchange"
                    self.marked.fault(entries[key].value, text, nearest(target, self.type_names))
        for key in ("references", "optional", "exclude", "columns", "composite", "enums"):
            for name in getattr(settings, key) if key in entries else ():
                section, dot, _ = name.rpartition(".")
                if dot and section not in settings.sections:
                    text = f"{what}: {key}: {name!r} names the section {section!r}, which it does not have"
                    self.marked.fault(entries[key].value, text, nearest(section, settings.sections))

    def _tables_once(
        self, types: Mapping[str, TypeSettings], settings: Mapping[str, Mapping[str, Entry]], what: str
    ) -> None:
        """A table belongs to one type or section: else a change would be two items'."""
        owners: dict[str, str] = {}
        for name, of_type in types.items():
            if not of_type.takes_part or not of_type.table:
                continue
            for table in (of_type.table, *of_type.sections.values()):
                if table in owners and owners[table] != name and name in settings:
                    node = next(iter(settings[name].values())).key
                    text = f"{what}table {table!r} is in type {owners[table]} and in type {name}"
                    self.marked.fault(node, text, "a table belongs to one type")
                owners.setdefault(table, name)

    def _own_exchange(
        self, code: str, entries: Mapping[str, Entry], exchange: dict[str, TypeSettings]
    ) -> dict[str, TypeSettings]:
        """All types as one node has them."""
        marked = self.marked
        own = marked.mapping(entries["exchange"].value, f"node {code!r}: exchange") if "exchange" in entries else {}
        result = dict(exchange)
        settings: dict[str, Mapping[str, Entry]] = {}
        for name, (key, value) in own.items():
            what = f"node {code!r}: type {name}"
            if name not in exchange:
                if name not in self.type_names:
                    text = f"node {code!r}: {name!r} is no type of the exchange"
                    marked.fault(key, text, nearest(name, self.type_names))
            elif isinstance(value, ScalarNode) and value.tag == "tag:yaml.org,2002:bool":
                if marked.boolean(value, what):
                    marked.fault(value, f"{what}: a mapping or false", "leave it out where nothing differs")
                result[name] = replace(exchange[name], takes_part=False)
            elif isinstance(value, MappingNode):
                settings[name] = marked_keys(marked, value)
                result[name] = self._type(name, value, what, exchange[name])
                self._overridden(exchange[name], result[name], settings[name], what)
            else:
                marked.fault(value, f"{what} has to be a mapping or false")
        self._tables_once(result, settings, f"node {code!r}: ")
        return result

    def _overridden(self, general: TypeSettings, own: TypeSettings, entries: Mapping[str, Entry], what: str) -> None:
        if not entries:
            return
        for key in _SAME_EVERYWHERE:
            if key in entries and getattr(own, key) != getattr(general, key):
                self.marked.fault(
                    entries[key].key, f"{what}: {key} has to be the same at every node", "say it in `exchange` below"
                )
        self._contradictions(own, entries, what)
        self._targets(own, entries, what)


def marked_keys(marked: Marked, node: Node) -> dict[str, Entry]:
    """The entries of a mapping that has been checked: its faults are noted already."""
    return Marked(marked.name).mapping(node, "")


_T = TypeVar("_T")


def _doubles(values: Iterable[_T]) -> list[_T]:
    return [value for value, count in Counter(values).items() if count > 1]


def _circles(parents: Mapping[str, str | None]) -> list[list[str]]:
    """Circles of parents, each once, from the node of it that comes first."""
    found: list[list[str]] = []
    settled: set[str] = set()
    for start in parents:
        way: list[str] = []
        step: str | None = start
        while step is not None and step in parents and step not in settled and step not in way:
            way.append(step)
            step = parents[step]
        if step in way:
            found.append(way[way.index(step) :])
        settled.update(way)
    return found
