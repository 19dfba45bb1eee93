"""Speed side by side with what a user would pick instead: PostgreSQL's own logical replication.

Both rivals work in the same run, on the same two PostgreSQL servers, on the same tables, one after the other.

    servers      two PostgreSQL 18 servers from the wheel, with the same settings
    tables       the trade: customers, items, a catalogue, orders with lines; and when two databases are equal
    workloads    what is written at the source, and how it is told that it has arrived
    native       the rival: publication and subscription
    exchange     KOD: two nodes, each with a daemon of its own
    usage        CPU and memory of processes, from /proc
    drain        a backlog is drained: W1, W2, W3
    latency      200 transactions a second: from commit to visible at the target
    capture      what capture costs the application
    source       node 00 alone, its send dispatcher in this process
    growth       ten times the items in the register, ten times the neighbours
    presence     what is kept of which neighbour has which item: a million items, five nodes
    start        how long a node with a large package takes to start
    report       the table

`make bench` runs all of it; `python -m benchmarks w2 latency --quick` a part, small.
"""
