"""Streams: the groups of a session are shared out among parallel streams, which write its messages.

    capture -> [ select -> review -> complete -> group -> SPLIT -> publish ] -> receive

Whole groups only; never fewer items in a stream than the minimum; never more streams than the maximum; balanced by
bytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from dispatcher.grouping import Group, Limits


def split(groups: Sequence[Group], *, streams_max: int, items_min: int) -> list[list[Group]]:
    """At most `streams_max` streams of about the same size in bytes, none with fewer than `items_min` items (unless
    there is only one). Groups keep their order within a stream."""
    items = sum(len(g.items) for g in groups)
    count = max(1, min(streams_max, items // max(1, items_min), len(groups)))
    if count == 1:
        return [list(groups)] if groups else []
    streams: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, 0, n) for n in range(count)]  # the largest group to the stream with the least so far
    for position in sorted(range(len(groups)), key=lambda p: -groups[p].size_bytes):
        load, held, n = loads[0]
        streams[n].append(position)
        its, size = groups[position]
        heapq.heapreplace(loads, (load + size, held + len(its), n))
    result = [[groups[p] for p in sorted(stream)] for stream in streams]
    return _merge_small(result, items_min)


def _merge_small(streams: list[list[Group]], items_min: int) -> list[list[Group]]:
    """Few heavy items may have made a stream with too few of them: it joins the lightest other one."""
    while len(streams) > 1:
        small = next((s for s in streams if sum(len(g.items) for g in s) < items_min), None)
        if small is None:
            break
        streams.remove(small)
        min(streams, key=lambda s: sum(g.size_bytes for g in s)).extend(small)
    return streams


def pack(stream: Sequence[Group], limits: Limits) -> list[list[Group]]:
    """The stream's groups as messages, each within the limits (a group that alone is above them stays whole)."""
    messages: list[list[Group]] = []
    items = size = 0
    for group in stream:
        items += len(group.items)
        size += group.size_bytes
        if messages and limits.hold(items, size):
            messages[-1].append(group)
        else:
            messages.append([group])
            items, size = len(group.items), group.size_bytes
    return messages
