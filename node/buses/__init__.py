"""Buses that carry letters between neighbours (dispatcher.ports.Bus), one module or folder each.

    memory   several nodes in one process: tests and the simulation
    folder   a folder that both neighbours reach: a disk, a share, something that synchronises
    kafka    Apache Kafka, one topic for each direction of a link

    offers, end_marks   what they have in common

All of them pass tests/contract/test_bus.py. None looks into a letter further than its header: what it says is the
receive dispatcher's to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dispatcher.ports import Bus
from schemas.errors import ConfigError


def open_bus(
    url: str, network: str, node_code: str, senders: Sequence[str], kafka_settings: Mapping[str, str] | None = None
) -> Bus:
    """The bus behind nodes.yaml's `bus`, as the node `node_code` with the neighbours `senders` uses it.

    Nothing is connected or written yet. A folder's path is taken as it is: whoever reads nodes.yaml makes it absolute.

    Raises ConfigError for a URL that is none.
    """
    kind, _, rest = url.partition(":")
    if kind == "folder" and rest:
        from node.buses.folder import FolderBus

        return FolderBus(Path(rest), network, node_code, senders)
    if kind == "kafka" and rest.startswith("//") and rest.strip("/"):
        from node.buses.kafka import KafkaBus  # imported late: librdkafka is not wanted where a folder is the bus

        return KafkaBus(rest.strip("/"), network, node_code, senders, kafka_settings or {})
    raise ConfigError(f"{url!r} is no bus", hint="folder:./exchange, or kafka://broker-1:9092,broker-2:9092")
