"""`make fuzz`: plays the targets in turn, each for some seconds. Exit code 1 if something was found.

    python -m tests.fuzz                       all of them
    python -m tests.fuzz message --seconds 600
    python -m tests.fuzz message FILE          one input again, with the traceback

What reaches new code is kept in `.cache/fuzz/TARGET` and is where the next run begins; what was found lies there as
`found/crash-…`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz.mutating import altered

FOLDER = Path(".cache/fuzz")
INPUT_BYTES_MAX = 4096
INPUT_S_MAX = 10
"""An input that takes longer is one that holds a daemon up."""
MEMORY_MB_MAX = 2048


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.description = __doc__
    parser.add_argument("target", nargs="?", help="all of them unless given")
    parser.add_argument("file", nargs="?", type=Path, help="an input that is played once")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.play:
        return _fuzz(asked.target)

    from tests.fuzz.targets import TARGETS

    if asked.target is not None and asked.target not in TARGETS:
        parser.error(f"there is no target {asked.target!r}: {', '.join(TARGETS)}")
    if asked.file is not None:
        TARGETS[asked.target].reads(asked.file.read_bytes())
        return 0
    found = [_play(name, asked.seconds) for name in ([asked.target] if asked.target else TARGETS)]
    return 1 if any(found) else 0


def _play(name: str, seconds: int) -> bool:
    """A target in a process of its own, which the fuzzer ends; whether it found something."""
    from tests.fuzz.targets import TARGETS

    corpus, found = FOLDER / name / "corpus", FOLDER / name / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(TARGETS[name].examples):
        (corpus / f"example-{number}").write_bytes(example)
    before = set(found.iterdir())
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S_MAX}",
        f"-rss_limit_mb={MEMORY_MB_MAX}",
        f"-artifact_prefix={found}/",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "tests.fuzz", name, "--play"]
    environment = {**os.environ, "KOD_FUZZ": " ".join([*options, str(corpus)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    executed = re.search(r"number_of_executed_units: *(\d+)", said)
    inputs = int(executed[1]) if executed else 0
    reached = re.findall(r" cov: (\d+)", said)
    places = reached[-1] if reached else 0
    kept = len(list(corpus.iterdir()))
    new = sorted(set(found.iterdir()) - before)
    print(f"{name}: {inputs:,} inputs, {places} places of code reached, {kept:,} kept, {len(new) or 'nothing'} found")
    if not new and done.returncode == 0:
        return False
    print(_what_happened(said), flush=True)
    for file in new:
        print(f"  again: python -m tests.fuzz {name} {file}", flush=True)
    return True


def _what_happened(said: str) -> str:
    lines = [line for line in said.splitlines() if not line.startswith(("INFO:", "WARNING:", "#", "stat::"))]
    return "\n".join(lines[:40])


def _fuzz(name: str) -> int:
    """Plays until the fuzzer ends the process."""
    try:
        import atheris
    except ImportError:
        print("atheris is missing: `make fuzz` installs it", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["schemas", "serializers", "dispatcher", "node"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    mutator = {"custom_mutator": altered} if target.is_json else {}
    atheris.Setup([sys.argv[0], *os.environ["KOD_FUZZ"].split()], target.reads, **mutator)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
