"""A real Apache Kafka for the tests, from Maven artifacts (tests/kafka/pom.xml): Java 17 and Maven are enough.

    kafka_bootstrap()   the address of a broker that all workers of one pytest run share
    private_broker()    a broker of one's own, which can be killed and started again on the same data and port

Both end with the run, also when pytest is killed: every user of the shared broker holds a lock on a file, and a
watchdog that waits for that lock ends the broker when the kernel has freed it; the watchdog's own end ends it too.

The jars and a formatted data folder are kept in `.cache/kafka` of the project (KOD_CACHE names another cache).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

_POM = Path(__file__).parent / "kafka" / "pom.xml"
_CACHE = Path(os.environ.get("KOD_CACHE") or Path(__file__).parents[1] / ".cache") / "kafka"
_JAVA_OPTIONS = ["-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qk"
_PR_SET_PDEATHSIG = 1  # prctl(2)
_START_S = 60
_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "background.threads": "2",
    "log.cleaner.dedupe.buffer.size": "4194304",  # the default takes 128 MiB of heap
    "message.max.bytes": "10485760",
    "log.retention.ms": "-1",
    "broker.session.timeout.ms": "3000",  # how long a broker that was killed counts as alive: it may not return before
    "broker.heartbeat.interval.ms": "500",
}


class KafkaMissingError(Exception):
    """What Kafka needs is not at hand; the text says what."""


# --- what the tests use ---------------------------------------------------------------------------------------------


@cache
def kafka_bootstrap() -> str:
    """`host:port` of the broker of this pytest run, started at the first need. Skips where Java, Maven or the
    artifacts are missing; in CI that fails."""
    with _or_skip():
        prepare()
        return _shared_bootstrap()


@contextlib.contextmanager
def private_broker(address: str = "127.0.0.1", **settings: str) -> Iterator[KafkaBroker]:
    """A broker of the test's own, at an address of this machine. Settings are Kafka's, with `_` for `.`."""
    with _or_skip():
        prepare()
    folder = Path(tempfile.mkdtemp(prefix="kod-kafka-"))
    broker = KafkaBroker(folder, {name.replace("_", "."): value for name, value in settings.items()}, address)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _or_skip() -> Iterator[None]:
    try:
        yield
    except KafkaMissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"Kafka is missing: {missing}")
        pytest.skip(f"Kafka is missing: {missing}")


class KafkaBroker:
    """One broker, which is its own controller, with its data in `folder`."""

    def __init__(self, folder: Path, settings: dict[str, str] | None = None, address: str = "127.0.0.1") -> None:
        self.folder = folder
        self._address = address
        self._port, self._controller_port = _free_ports()
        self._settings = settings or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"{self._address}:{self._port}"

    def start(self) -> None:
        """Starts it on the data that are there, and waits until it answers."""
        properties = self.folder / "server.properties"
        if not properties.exists():
            properties.write_text(self._properties(), encoding="utf-8")
            shutil.copytree(_formatted(), self.folder / "data")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_java(), "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        self._wait_until_ready()

    def kill(self) -> None:
        """SIGKILL: what is not on disk or in the operating system's memory is lost. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _properties(self) -> str:
        own = {
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"PLAINTEXT://{self._address}:{self._port},CONTROLLER://127.0.0.1:{self._controller_port}",
            "log.dirs": str(self.folder / "data"),
        }
        return "".join(f"{name}={value}\n" for name, value in {**_SETTINGS, **own, **self._settings}.items())

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + _START_S
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 100})
        while True:
            with contextlib.suppress(KafkaException):
                if client.list_topics(timeout=1).brokers:
                    return
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"Kafka did not start:\n{(self.folder / 'log').read_text()[-4000:]}")


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


# --- jars and the formatted folder, kept ----------------------------------------------------------------------------


def prepare() -> None:
    """Fetches the jars and formats a data folder, once for all runs. Raises KafkaMissingError."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None and not (program == "mvn" and _jars().exists()):
            raise KafkaMissingError(f"there is no `{program}` on the path")
    if _jars().exists() and _formatted().exists():
        return
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _jars().exists():
            _made_whole(_jars(), _fetch_jars)
        if not _formatted().exists():
            _made_whole(_formatted(), _format)


def _jars() -> Path:
    return _CACHE / f"jars-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"


def _formatted() -> Path:
    return _jars().with_name(_jars().name.replace("jars", "formatted"))


def _made_whole(target: Path, make: Callable[[Path], None]) -> None:
    """Made under another name first: what is there under its own name is whole."""
    with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
        made = Path(scratch) / "made"
        make(made)
        made.rename(target)


def _fetch_jars(target: Path) -> None:
    command = ["mvn", "-B", "-q", "-f", str(_POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    done = subprocess.run([*command, f"-DoutputDirectory={target}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise KafkaMissingError(f"Maven did not get the artifacts: {(done.stdout + done.stderr)[:500]}")


def _format(target: Path) -> None:
    """A data folder that brokers copy: formatting takes a Java of its own, and also sets the feature levels."""
    target.mkdir()
    properties = target.parent / "format.properties"
    settings = {
        **_SETTINGS,
        "controller.quorum.voters": "1@127.0.0.1:1",
        "listeners": "PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1",
        "log.dirs": str(target),
    }
    properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
    command = [*_java(), "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(properties)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KafkaMissingError(f"its storage was not formatted: {(done.stdout + done.stderr)[-500:]}")


def _java() -> list[str]:
    jars = ":".join(str(jar) for jar in sorted(_jars().glob("*.jar")))
    return ["java", *_JAVA_OPTIONS, "-cp", jars]


# --- the broker that workers share ----------------------------------------------------------------------------------

_held: list[IO[str]] = []
"""Open as long as this process lives: the lock that keeps the shared broker alive."""


def _shared_bootstrap() -> str:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or f"{os.getpid()}"
    folder = Path(tempfile.gettempdir()) / f"kod-kafka-{os.getuid()}-{run}"
    while True:
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError), (folder / "starting").open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            users = (folder / "users").open("w")
            fcntl.flock(users, fcntl.LOCK_SH)
            if _is_there(folder / "users", users):  # or the watchdog of an earlier broker has just cleared up
                _held.append(users)
                return _started(folder)
            users.close()


def _is_there(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _started(folder: Path) -> str:
    address = folder / "bootstrap"
    if not address.exists():
        watchdog = subprocess.Popen(
            [sys.executable, "-m", "tests.kafka_broker", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
            start_new_session=True,  # Ctrl-C is for pytest
        )
        assert watchdog.stdout is not None
        with watchdog.stdout:
            said = watchdog.stdout.read().decode()  # until it has closed its end: started, or failed
        watchdog.returncode = 0  # it outlives us, on purpose
        if not address.exists():
            raise RuntimeError(f"the shared broker did not start {said}")
    return address.read_text(encoding="utf-8")


def _watch(folder: Path) -> None:
    """Runs the shared broker until nobody holds the lock on `users` any more."""
    broker = KafkaBroker(folder / "broker")
    broker.folder.mkdir(parents=True)
    with (folder / "users").open("r+") as users:
        try:
            broker.start()
            (folder / "bootstrap").write_text(broker.bootstrap, encoding="utf-8")
            _close_stdout()
            fcntl.flock(users, fcntl.LOCK_EX)
        finally:
            broker.kill()
            shutil.rmtree(folder, ignore_errors=True)


def _close_stdout() -> None:
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    _watch(Path(sys.argv[1]))
