"""The Kafka bus: a topic `kod.<network>.<to>.<from>` for each direction of a link, one partition, so that order,
access rights, lag and a bad message are each link's own (docs: kafka.md's design).

    settings     nodes.yaml's `kafka:` and what the design fixes -> librdkafka's settings
    encoding     a letter <-> a record: name and compression are in the headers
    topics       finding topics and making them
    publishing   one idempotent producer, every delivery report looked at
    inbox        what has come from one sender: pure bookkeeping
    receiving    one consumer, assigned to the positions that the node's database keeps
    looking      what the end of an outgoing topic says of this node
    bus          KafkaBus
"""

from __future__ import annotations

from node.buses.kafka.bus import KafkaBus

__all__ = ["KafkaBus"]
