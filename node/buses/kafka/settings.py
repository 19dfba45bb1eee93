"""What librdkafka is told: defaults, then nodes.yaml's `kafka:` as it is, then what the design fixes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from schemas.errors import ConfigError

log = logging.getLogger("node.buses.kafka.librdkafka")

MESSAGE_BYTES_MAX = 10_485_760
"""Topics are made with this limit."""

RECORD_OVERHEAD_BYTES = 320
"""What batch, record, header names and the message's name add at most."""

Client = TypeVar("Client")

_COMMON = {
    "message.max.bytes": str(MESSAGE_BYTES_MAX),
    "reconnect.backoff.max.ms": "1000",  # a broker that is back is found within a second, not ten
    "socket.connection.setup.timeout.ms": "10000",
    "socket.nagle.disable": "true",
}
_PRODUCER = {
    "linger.ms": "0",  # a session is sent at once; its letters are batches already
    "message.timeout.ms": "10000",
    "topic.metadata.propagation.max.ms": "2000",  # a topic that is missing holds its own link up, not all
}
_CONSUMER = {
    "fetch.wait.max.ms": "500",  # only how often an idle fetch is renewed: one with data returns at once
    "fetch.queue.backoff.ms": "5",  # its default is a second, which a queue of this size reaches at every burst
    "fetch.error.backoff.ms": "100",
    "queued.max.messages.kbytes": "8192",
    "max.poll.interval.ms": "86400000",  # links may stand still as long as they like
}
_FIXED_PRODUCER = {"acks": "all", "enable.idempotence": "true"}
_FIXED_CONSUMER = {
    "auto.offset.reset": "error",  # the other values lose or repeat in silence
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "enable.partition.eof": "false",
}
_SAME = {
    "request.required.acks": "acks",
    "delivery.timeout.ms": "message.timeout.ms",
    "queue.buffering.max.ms": "linger.ms",
}

# librdkafka warns about the other role's settings; this tells whose a setting of nodes.yaml is
_OF_PRODUCERS = (
    "acks", "batch.", "compression.", "delivery.", "enable.gapless", "enable.idempotence", "linger.", "message.send.",
    "message.timeout.", "msg_order", "partitioner", "queue.buffering.", "queuing.", "request.required.",
    "request.timeout.", "retries", "retry.", "sticky.", "transaction",
)  # fmt: skip
_OF_CONSUMERS = (
    "auto.", "check.crcs", "enable.auto.", "enable.partition.", "fetch.", "group.", "heartbeat.", "isolation.",
    "max.partition.", "max.poll.", "offset.", "partition.assignment", "queued.", "session.",
)  # fmt: skip


@dataclass
class KafkaSettings:
    """For one node. Raises ConfigError when nodes.yaml sets what the design relies on."""

    bootstrap: str
    network: str
    node: str
    given: Mapping[str, str]
    last_error: str = field(default="", init=False)
    """What librdkafka last said went wrong: `connection refused` and the like."""

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            fixed = {**_FIXED_PRODUCER, **_FIXED_CONSUMER, "bootstrap.servers": self.bootstrap}
            wanted = fixed.get(_SAME.get(name, name))
            if wanted is not None and str(value).lower() not in (wanted, "-1" if wanted == "all" else wanted):
                raise ConfigError(
                    f"kafka: {name} cannot be {value!r}: КОД relies on {wanted!r}",
                    hint="take the line out; brokers are named in `bus:`",
                )

    @property
    def publish_timeout_s(self) -> float:
        producer = self.producer()
        return int(producer.get("delivery.timeout.ms", producer["message.timeout.ms"])) / 1000

    @property
    def message_bytes_max(self) -> int:
        return int(self._merged(_COMMON)["message.max.bytes"])

    @property
    def payload_bytes_max(self) -> int:
        """What is left of it beside a record's headers."""
        return self.message_bytes_max - RECORD_OVERHEAD_BYTES

    def admin(self) -> dict[str, Any]:
        given = {n: v for n, v in self.given.items() if not n.startswith(_OF_PRODUCERS + _OF_CONSUMERS)}
        return self._client({**_COMMON, **given})

    def producer(self) -> dict[str, Any]:
        given = {n: v for n, v in self.given.items() if not n.startswith(_OF_CONSUMERS)}
        defaults = {n: v for n, v in _PRODUCER.items() if n not in {_SAME.get(g, g) for g in given}}
        own = {n: v for n, v in given.items() if _SAME.get(n, n) not in _FIXED_PRODUCER}
        return self._client({**_COMMON, **defaults, **own, **_FIXED_PRODUCER})

    def consumer(self) -> dict[str, Any]:
        given = {n: v for n, v in self.given.items() if not n.startswith(_OF_PRODUCERS)}
        group = {"group.id": f"kod.{self.network}.{self.node}"}
        return self._client({**_COMMON, **_CONSUMER, **group, **given, **_FIXED_CONSUMER})

    def create(self, client: Callable[..., Client], settings: Mapping[str, Any]) -> Client:
        """A client of librdkafka. Raises ConfigError for a setting that it does not know or take."""
        try:
            return client(dict(settings), logger=_Quiet(log, {}))
        except (KafkaException, ValueError, TypeError) as error:
            raise ConfigError(
                f"kafka: {reason_of(error)}",
                hint="the settings below `kafka:` are librdkafka's (CONFIGURATION.md there)",
            ) from None

    def _merged(self, defaults: Mapping[str, str]) -> dict[str, str]:
        return {**defaults, **self.given}

    def _client(self, settings: Mapping[str, str]) -> dict[str, Any]:
        return {
            "client.id": f"kod-{self.network}-{self.node}",
            **settings,
            "bootstrap.servers": self.bootstrap,
            "error_cb": self._note,
        }

    def _note(self, error: KafkaError) -> None:
        self.last_error = error.str()


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """librdkafka warns of every try to connect; what matters comes back as an error, so its lines are for DEBUG."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        super().log(logging.DEBUG, msg, *args, **kwargs)


def reason_of(error: BaseException) -> str:
    """What a KafkaException says, without its wrapping."""
    first = error.args[0] if error.args else error
    text = getattr(first, "str", None)
    return text() if callable(text) else str(first)
