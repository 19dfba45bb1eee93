"""What `kod check` finds: nodes.yaml's network against its files and its databases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from node.databases import Database
from node.hooks.loading import examine
from node.hooks.structure import Wrong
from node.opened import open_node
from node.packages import package_of
from schemas.errors import ConfigError, Fault, KodError, UnavailableError
from schemas.network import Network, NodeSettings
from schemas.structure import Mismatch, Structure


@dataclass(frozen=True, slots=True)
class Finding:
    """A mismatch, and the node at which it is; None where it concerns the network."""

    node: str | None
    type: str | None
    property: str | None
    effect: str
    text: str
    hint: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Checked:
    findings: tuple[Finding, ...]
    reached: tuple[str, ...]
    unreached: tuple[tuple[str, UnavailableError | ConfigError], ...]
    """Nodes that could not be looked at, and why."""
    rights: tuple[str, ...] = ()
    """On Kafka: what each node's principal must be allowed."""


def losing(findings: Iterable[Finding]) -> bool:
    """Whether something of it loses or stops data."""
    return any(f.effect != "note" for f in findings)


def findings_of(code: str, mismatches: Iterable[Mismatch]) -> list[Finding]:
    return [Finding(code, m.type, m.property, m.effect, m.text, m.hint) for m in dict.fromkeys(mismatches)]


def check_network(network: Network, codes: Sequence[str]) -> Checked:
    """Hooks, the package, and the databases of `codes` against it."""
    package_of(network)  # raises all its faults at once
    findings = [*_settings(network), *_hooks(network)]
    reached: list[str] = []
    unreached: list[tuple[str, UnavailableError | ConfigError]] = []
    for code in codes:
        try:
            wrong: list[Wrong] = []
            database, structure = open_node(network, code, wrong)
            findings += [_finding(code, one.type, one.fault) for one in wrong]
            with closing(database):
                findings += _at_node(network.nodes[code], database, structure)
                findings += _kept_by_hooks(code, database)
        except (UnavailableError, ConfigError) as error:
            unreached.append((code, error))
        else:
            reached.append(code)
    return Checked(tuple(findings), tuple(reached), tuple(unreached), _rights(network, codes))


def _hooks(network: Network) -> list[Finding]:
    """Hooks are Python: they are loaded as the daemon will load them."""
    types = {name for node in network.nodes.values() for name in node.exchange}
    return [_finding(None, None, fault) for fault in examine(network.hooks, types)[1]]


def _finding(code: str | None, type_name: str | None, fault: Fault) -> Finding:
    return Finding(code, type_name, None, "refused", f"{fault.where}: {fault.text}", fault.hint)


def _kept_by_hooks(code: str, database: Database) -> list[Finding]:
    """What hooks that failed keep from going on."""
    try:
        figures = database.figures().hooks
    except ConfigError:  # not installed yet
        return []
    found = []
    if figures.held:
        text = f"{figures.held} items are held: {figures.held_reason}"
        hint = "mend the hook and start the daemon again; they are tried every 30 s"
        found.append(Finding(code, None, None, "will not arrive", text, hint))
    if figures.deferred_failing:
        text = f"{figures.deferred_failing} deferred works fail: {figures.deferred_reason}"
        found.append(Finding(code, None, None, "note", text, "mend the hook and start the daemon again"))
    return found


def _at_node(settings: NodeSettings, database: Database, structure: Structure) -> list[Finding]:
    found = [*structure.mismatches, *database.check(structure)]
    if settings.identity is None:
        return findings_of(settings.code, found)
    if database.dialect in _WITHOUT_STEPS:
        return findings_of(settings.code, [*found, *_no_steps(settings.identity, structure, database.dialect)])
    return findings_of(settings.code, [m for m in found if not _asks_for_identity(m, structure)])


def _asks_for_identity(mismatch: Mismatch, structure: Structure) -> bool:
    """A database names every key that it generates; it does not know that nodes.yaml keeps the nodes apart."""
    item_type = structure.types.get(mismatch.type)
    return item_type is not None and item_type.generated_key and "`identity:" in mismatch.hint


_WITHOUT_STEPS = {
    "sqlite": ("SQLite cannot generate keys in steps", "let the application give the keys, and take `identity` out"),
    "mariadb": (
        "MariaDB has one step for all tables of a server",
        "set auto_increment_increment and auto_increment_offset at the server",
    ),
}


def _no_steps(identity: tuple[int, int], structure: Structure, dialect: str) -> list[Mismatch]:
    if not any(t.generated_key for t in structure.types.values()):
        return []
    step, offset = identity
    why, hint = _WITHOUT_STEPS[dialect]
    return [Mismatch("", None, "note", f"`identity: {{step: {step}, offset: {offset}}}` has no effect: {why}", hint)]


def _settings(network: Network) -> list[Finding]:
    """What nodes.yaml says that will not do what its writer expects."""
    found = []
    if network.bus.startswith("folder:") and network.kafka:
        text = "`kafka` has settings, and the bus is a folder: they are not used"
        found.append(Finding(None, None, None, "note", text, "set `bus: kafka://…`, or take them out"))
    between = [code for code, node in network.nodes.items() if node.parent and network.topology.children(code)]
    for code in between:
        exchange = network.nodes[code].exchange
        tables = {t for s in exchange.values() if s.takes_part for t in (s.table, *s.sections.values())}
        for name, settings in exchange.items():
            if settings.takes_part and settings.access and settings.access not in tables:
                text = (
                    f"{settings.access} says where it goes, and node {code} has nodes below it: a view has to say the"
                )
                hint = f"let {settings.access} be a view over what takes part; a table's rows are told with the items"
                found.append(Finding(code, name, None, "note", text + " same here", hint))
    return found


def _rights(network: Network, codes: Sequence[str]) -> tuple[str, ...]:
    """What a node's principal needs on Kafka: it writes only its own outgoing topics (docs: kafka)."""
    if not network.bus.startswith("kafka:"):
        return ()
    rights = []
    for code in codes:
        for neighbour in network.topology.neighbours(code):
            rights.append(f"{code}: Write, Describe on topic kod.{network.name}.{neighbour}.{code}")
            rights.append(f"{code}: Read, Describe, Delete on topic kod.{network.name}.{code}.{neighbour}")
    return tuple(rights)


def kod_error_text(error: KodError) -> str:
    """An error on one line, its faults among it."""
    faults = error.faults if isinstance(error, ConfigError) else ()
    return "; ".join(map(str, faults)) or error.text
