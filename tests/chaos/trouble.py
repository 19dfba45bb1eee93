"""What breaks, and how it is mended: each trouble is a context in which something is broken, or an act."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.edge.network import TestNetwork
from tests.kafka_broker import KafkaBroker
from tests.servers import PostgresqlServer

Trouble = Callable[[random.Random], None]


def kill_daemon(network: TestNetwork) -> Trouble:
    """SIGKILL; whoever supervises starts it again."""

    def act(choice: random.Random) -> None:
        network.daemons[choice.choice(sorted(network.daemons))].kill()

    return act


def stop_daemon(network: TestNetwork) -> Trouble:
    """SIGSTOP for a while, as a machine that swaps, then SIGCONT."""

    def act(choice: random.Random) -> None:
        daemon = network.daemons[choice.choice(sorted(network.daemons))]
        with suppress(ProcessLookupError):
            os.kill(daemon.pid, signal.SIGSTOP)
            time.sleep(choice.uniform(0.5, 3))
            os.kill(daemon.pid, signal.SIGCONT)

    return act


def kill_database(server: PostgresqlServer) -> Trouble:
    """The server dies without a checkpoint, and is started again."""
    return lambda choice: server.crash()


def kill_broker(broker: KafkaBroker) -> Trouble:
    def act(choice: random.Random) -> None:
        broker.kill()
        time.sleep(max(3.5, choice.uniform(3, 5)))  # it may not return while it counts as alive
        broker.start()

    return act


def fill_disk(folder: Path) -> Trouble:
    """The folder's file system takes nothing any more."""

    def act(choice: random.Random) -> None:
        ballast = folder / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65_536))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        time.sleep(choice.uniform(1, 3))
        ballast.unlink()

    return act


def limit_files(network: TestNetwork) -> Trouble:
    """Where no file system of its own may be mounted: a daemon may not make any file longer than it is."""

    def act(choice: random.Random) -> None:
        daemon = network.daemons[choice.choice(sorted(network.daemons))]
        with suppress(ProcessLookupError):
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            time.sleep(choice.uniform(1, 3))
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return act


def cut_folder(bus: Path, network: str, to: str, sender: str) -> Trouble:
    """Where the link's letters are put there is a file instead of a folder: both ends get errors."""

    def act(choice: random.Random) -> None:
        place, aside = bus / network / to / sender, bus / f"cut-{to}-{sender}"
        if place.is_dir():
            place.rename(aside)
            place.touch()
            time.sleep(choice.uniform(1, 4))
            place.unlink()
            aside.rename(place)

    return act


class Namespace:
    """A network of one's own for a daemon, tied to this machine's by a cable that can be pulled out."""

    def __init__(self) -> None:
        number = os.getpid() % 250
        self.name, self._cable = f"kod-chaos-{os.getpid()}", f"kc{os.getpid()}"
        self.address = f"10.213.{number}.1"
        inside = f"{self._cable}i"
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._cable, "type", "veth", "peer", "name", inside, "netns", self.name)
            _ip("addr", "add", f"{self.address}/30", "dev", self._cable)
            _ip("link", "set", self._cable, "up")
            _ip("-n", self.name, "addr", "add", f"10.213.{number}.2/30", "dev", inside)
            _ip("-n", self.name, "link", "set", inside, "up")
            _ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    @property
    def prefix(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]

    def cut(self, choice: random.Random) -> None:
        _ip("link", "set", self._cable, "down")
        time.sleep(choice.uniform(1, 6))
        _ip("link", "set", self._cable, "up")

    def close(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def namespace() -> Iterator[Namespace | None]:
    """None where this user may not make one."""
    made = None
    if shutil.which("ip"):
        with suppress(subprocess.CalledProcessError):
            made = Namespace()
    try:
        yield made
    finally:
        if made is not None:
            made.close()


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[bool]:
    """A file system of `size_mb` at `folder`; whether this user may mount one."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)
