"""Chaos: real daemons over PostgreSQL and SQLite, a folder or Kafka, while applications write and everything breaks.

    load      applications that write at every node, what they committed, and readers that look for halves
    trouble   what breaks: processes, database, broker, disk, links; each is mended again
    rounds    a network, its load and a row of troubles; then rest, and what has to be true

`python -m tests.chaos` (`make chaos`) plays rounds and prints their counts; tests/edge/test_chaos.py plays a short one.
"""
