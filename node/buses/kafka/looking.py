"""Looking at the end of a topic that this node writes: how far had it come, whatever its database says?"""

from __future__ import annotations

import time
from contextlib import closing

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka import Message as KafkaMessage

from dispatcher.ports import Life
from node.buses.end_marks import life_of
from node.buses.kafka.encoding import decode, headers_of
from node.buses.kafka.settings import KafkaSettings, reason_of
from schemas.errors import MessageError, UnavailableError

LOOK_S = 10.0
_NOTHING_KNOWN = frozenset(
    (
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError._AUTO_OFFSET_RESET,  # deleted by the receiver between two looks
        KafkaError.OFFSET_OUT_OF_RANGE,
    )
)


def last_life(settings: KafkaSettings, topic: str) -> Life | None:
    """What the last record says of its writer; None when there is none, it is no message, or it may not be read."""
    try:
        with closing(settings.create(Consumer, settings.consumer())) as consumer:
            record = _last(consumer, topic, until=time.monotonic() + LOOK_S)
    except KafkaException as error:
        if error.args[0].code() in _NOTHING_KNOWN:
            return None
        raise UnavailableError(
            f"kafka topic {topic}: {reason_of(error)}", hint="do the brokers run, and may this node connect to them?"
        ) from None
    if record is None:
        return None
    try:
        return life_of(decode(headers_of(record.headers()), record.value() or b""))
    except MessageError:
        return None


def _last(consumer: Consumer, topic: str, *, until: float) -> KafkaMessage | None:
    if topic not in consumer.list_topics(timeout=LOOK_S).topics:
        return None
    low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=LOOK_S)
    if low >= high:
        return None
    consumer.assign([TopicPartition(topic, 0, high - 1)])
    while time.monotonic() < until:
        record = consumer.poll(0.1)
        if record is None:
            continue
        error = record.error()
        if error is None:
            return record
        if not error.retriable():
            raise KafkaException(error)
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
