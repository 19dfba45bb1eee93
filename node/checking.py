"""What `kod check` finds: nodes.yaml's network against its files and its databases."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from node.opened import open_node, package_of
from schemas.errors import ConfigError, KodError, UnavailableError
from schemas.network import Network
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
    findings = _hooks(network.hooks)
    structures: dict[str, Structure] = {}
    unreached: list[tuple[str, UnavailableError | ConfigError]] = []
    for code in codes:
        try:
            database, structure = open_node(network, code)
            with closing(database):
                findings += findings_of(code, (*structure.mismatches, *database.check(structure)))
        except (UnavailableError, ConfigError) as error:
            unreached.append((code, error))
        else:
            structures[code] = structure
    findings += _births(network, structures, {(f.node, f.type) for f in findings if "generate" in f.text})
    return Checked(tuple(findings), tuple(structures), tuple(unreached), _rights(network, codes))


def _hooks(path: Path | None) -> list[Finding]:
    """Hooks are Python: they are loaded as the daemon will load them."""
    if path is None:
        return []
    spec = importlib.util.spec_from_file_location("kod_hooks", path)
    try:
        if spec is None or spec.loader is None:
            raise ImportError("it is no Python file")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:
        text = f"hooks {path.name} cannot be loaded: {type(error).__name__}: {error}"
        return [Finding(None, None, None, "refused", text, f"python {path} shows where")]
    return []


def _births(
    network: Network, structures: dict[str, Structure], named: set[tuple[str | None, str | None]]
) -> list[Finding]:
    """Keys that several databases generate: two nodes would give birth to different items under one key."""
    findings = []
    names = dict.fromkeys(name for s in structures.values() for name, t in s.types.items() if t.generated_key)
    for name in names:
        nodes = [c for c, s in structures.items() if name in s.types and s.types[name].generated_key]
        apart = [c for c in nodes if network.nodes[c].identity is not None]
        if len(nodes) < 2 or len(apart) == len(nodes) or all((code, name) in named for code in nodes):
            continue
        at = ", ".join(nodes)
        text = f"nodes {at} each generate its keys: two of them would give birth to different items under one key"
        hint = "write it at one node only, or `identity: {step, offset}` at each, then kod install"
        findings.append(Finding(None, name, None, "note", text, hint))
    return findings


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
