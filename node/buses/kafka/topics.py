"""Topics: their names, and making those that are missing, where the rights allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from node.buses.kafka.settings import MESSAGE_BYTES_MAX, reason_of
from schemas.errors import ConfigError, UnavailableError

REPLICAS_MAX = 3
TIMEOUT_S = 10.0
_REFUSALS = frozenset(
    (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.TOPIC_EXCEPTION,
    )
)


def topic_of(network: str, to: str, sender: str) -> str:
    return f"kod.{network}.{to}.{sender}"


def aside_topic_of(network: str, node: str) -> str:
    """Where a node puts what is no message. No node's code is in lower case, so it is no link's."""
    return f"kod.{network}.{node}.aside"


def ensure(admin: AdminClient, bootstrap: str, topics: Iterable[str]) -> None:
    """Makes the topics that are missing.

    Raises UnavailableError when the brokers cannot be reached, ConfigError with the commands when they refuse.
    """
    try:
        known = admin.list_topics(timeout=TIMEOUT_S)
    except KafkaException as error:
        raise UnavailableError(
            f"kafka {bootstrap}: {reason_of(error)}", hint="do the brokers run, and may this node connect to them?"
        ) from None
    missing = [topic for topic in topics if topic not in known.topics]
    if not missing:
        return
    wanted = [_new_topic(topic, len(known.brokers)) for topic in missing]
    refused = {}
    for topic, made in admin.create_topics(wanted, request_timeout=TIMEOUT_S).items():
        try:
            made.result()
        except KafkaException as error:
            code = error.args[0].code()
            if code in _REFUSALS:
                refused[topic] = reason_of(error)
            elif code != KafkaError.TOPIC_ALREADY_EXISTS:  # a neighbour was faster
                raise UnavailableError(
                    f"kafka {bootstrap}: topic {topic} was not made: {reason_of(error)}",
                    hint=command(bootstrap, [new for new in wanted if new.topic == topic]),
                ) from None
    if refused:
        raise ConfigError(
            "; ".join(f"kafka {bootstrap}: topic {topic} may not be made: {why}" for topic, why in refused.items()),
            hint=command(bootstrap, [new for new in wanted if new.topic in refused]),
        )


def missing_hint(bootstrap: str, topic: str) -> str:
    """What makes a topic that was there once, and that this node may not make."""
    return f"make the topic: {command(bootstrap, [_new_topic(topic, 1)])}"


def command(bootstrap: str, topics: Sequence[NewTopic]) -> str:
    return "; ".join(
        f"kafka-topics.sh --bootstrap-server {bootstrap} --create --topic {new.topic} --partitions 1"
        f" --replication-factor {new.replication_factor}"
        + "".join(f" --config {name}={value}" for name, value in (new.config or {}).items())
        for new in topics
    )


def _new_topic(topic: str, brokers: int) -> NewTopic:
    replicas = max(1, min(REPLICAS_MAX, brokers))
    config = {
        "cleanup.policy": "delete",
        "retention.ms": "-1",  # a node may be away for weeks; the receiver deletes what it has applied
        "retention.bytes": "-1",
        "max.message.bytes": str(MESSAGE_BYTES_MAX),
        "message.timestamp.type": "LogAppendTime",  # the broker's clock: a node's own may be wrong
    }
    if replicas > 1:
        config["min.insync.replicas"] = "2"
    return NewTopic(topic, num_partitions=1, replication_factor=replicas, config=config)
