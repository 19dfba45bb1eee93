"""A node and its children in one process: the real flow over real databases, and a bus in memory that is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dispatcher.ports import Letter, NodeView
from dispatcher.receiving import Receiver
from dispatcher.sending import Sender
from dispatcher.turning import Step, Turning
from node.buses.memory import MemoryBus, MemoryNetwork
from node.clock import SystemClock
from node.hooks import Hooks
from node.hooks.bound import BoundHooks, HookStep
from node.hooks.loading import NOTHING, Loaded
from schemas.stamp import Stamp
from serializers.keys import Item, key_of
from serializers.message import part_of, put_together, read_message
from tests.contract.store_world import StoreWorld


class CountedBus(MemoryBus):
    """Keeps what was published, by addressee."""

    def __init__(self, network: MemoryNetwork, node: str) -> None:
        super().__init__(network, node)
        self.published: dict[str, list[Letter]] = {}

    def publish(self, to: str, letters: Sequence[Letter]) -> None:
        super().publish(to, letters)
        self.published.setdefault(to, []).extend(letters)


class TestClock(SystemClock):
    """Real time, and some more on demand: what waits for a retry need not be waited for."""

    __test__ = False

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now(self) -> Stamp:
        return Stamp(super().now() + self.ahead_ms)


class Tree:
    """00 sends to its children; only some of them, perhaps none, are there to receive."""

    def __init__(
        self,
        make: Callable[[str], StoreWorld],
        *,
        children: Sequence[str] = ("01",),
        receiving: Sequence[str] = ("01",),
        message_bytes_max: int | None = None,
        steps: Callable[[str], Sequence[Step]] = lambda _: (),
        hooks: Mapping[str, Sequence[Hooks]] | None = None,
        **settings: Any,
    ) -> None:
        """`steps`: of a node, by which its items are turned. `hooks`: of each node."""
        self._steps = steps
        self.hooks = {code: Loaded(by_type={type(h).type: h for h in own}) for code, own in (hooks or {}).items()}
        self.network = MemoryNetwork(positions=True, message_bytes_max=message_bytes_max)
        self.clock = TestClock()
        self.world = _installed(make, "00", children, self.hooks.get("00", NOTHING))
        self.structure = self.world.structure()
        self.bus = CountedBus(self.network, "00")
        self.settings = replace(self.world.settings, **settings)
        view = NodeView("00", None, tuple(children), {c: c for c in children})
        self.view = view
        self.sender = self.new_sender()
        self.receivers: dict[str, Receiver] = {}
        self.children: dict[str, StoreWorld] = {}
        for code in receiving:
            self.children[code] = _installed(make, code, ["00"], self.hooks.get(code, NOTHING))
            self.receivers[code] = self.receiver(code)

    def receiver(self, code: str) -> Receiver:
        """A child's receive dispatcher, as it is after a start of its daemon."""
        child = self.children[code]
        view = NodeView(code, "00", (), {"00": "00"})
        return self._receiver_of(child, view)

    def parent_receiver(self) -> Receiver:
        """The receive dispatcher of 00."""
        return self._receiver_of(self.world, self.view)

    def _receiver_of(self, world: StoreWorld, view: NodeView) -> Receiver:
        bus = MemoryBus(self.network, view.code)
        structure = world.structure()
        hooks = BoundHooks(world.hooks, structure, view, self.clock)
        turning = Turning(structure, [HookStep(hooks), *self._steps(view.code)])
        return Receiver(view, structure, world.settings, world.store, bus, self.clock, turning=turning, hooks=hooks)

    def new_sender(self) -> Sender:
        """The send dispatcher of 00, as it is after a start of its daemon."""
        self.bound = BoundHooks(self.world.hooks, self.structure, self.view, self.clock)
        turning = Turning(self.structure, [HookStep(self.bound), *self._steps("00")])
        world = self.world
        return Sender(
            self.view,
            self.structure,
            self.settings,
            world.store,
            self.bus,
            self.clock,
            turning=turning,
            hooks=self.bound,
        )

    def child_sender(self, code: str) -> Sender:
        """A child's send dispatcher."""
        child = self.children[code]
        view = NodeView(code, "00", (), {"00": "00"})
        structure = child.structure()
        hooks = BoundHooks(child.hooks, structure, view, self.clock)
        turning = Turning(structure, [HookStep(hooks), *self._steps(code)])
        bus = MemoryBus(self.network, code)
        return Sender(view, structure, child.settings, child.store, bus, self.clock, turning=turning, hooks=hooks)

    def send(self) -> None:
        """Until nothing moves."""
        while self.sender.step():
            pass

    def receive(self) -> None:
        for receiver in self.receivers.values():
            while receiver.step():
                pass

    def sent(self, to: str) -> Counter[Item]:
        """How often each item has gone to a neighbour."""
        counts: Counter[Item] = Counter()
        for payload in self.messages(to):
            for item in read_message(payload).items:
                value: Mapping[str, Any] = item.value or item.deleted or {}
                counts[Item(item.type, key_of(self.structure[item.type], value))] += 1
        return counts

    def messages(self, to: str) -> list[bytes]:
        """What was published, parts put together."""
        whole: list[bytes] = []
        parts: list[bytes] = []
        for letter in self.bus.published.get(to, ()):
            part = part_of(letter.payload)
            if part is None:
                whole.append(letter.payload)
                continue
            parts.append(letter.payload)
            if part.number == part.of:
                whole.append(put_together(parts))
                parts.clear()
        return whole

    def close(self) -> None:
        for receiver in self.receivers.values():
            receiver.close()


def _installed(make: Callable[[str], StoreWorld], code: str, neighbours: Sequence[str], hooks: Loaded) -> StoreWorld:
    world = make(code)
    world.hooks = hooks
    world.install()
    world.start(*neighbours)
    return world
