"""`make chaos`: rounds of chaos, over a folder and over Kafka in turn. Exit code 1 if something is wrong."""

from __future__ import annotations

import argparse
import shutil
import sys

from tests.chaos.rounds import Round


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long things break in a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--first", type=int, default=1, help="the first round's seed")
    parser.add_argument("--bus", choices=["folder", "kafka"], help="one of them only")
    asked = parser.parse_args()
    buses = [asked.bus] if asked.bus else ["folder", *(["kafka"] if shutil.which("java") else [])]
    if "kafka" not in buses and not asked.bus:
        print("without Java there is no Kafka: every round goes over a folder")
    failed = 0
    for seed in range(asked.first, asked.first + asked.rounds):
        bus = buses[seed % len(buses)]
        one = Round(seed, bus, asked.seconds)
        try:
            one.play()
        except AssertionError as failure:
            failed += 1
            print(f"round {seed} over {bus} FAILED: {failure}")
        else:
            print(f"round {seed} over {bus}: equal data, nothing lost, nothing half")
        for name, count in one.counts.items():
            print(f"    {count:>9,} {name}")
        for reason in one.missing:
            print(f"    not done: {reason}")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
