"""`kod demo`: a network of its own, with real daemons, in one folder.

    network   the folder: nodes.yaml, databases, `kod` commands, one daemon for each node
    trade     what the applications do: sample data, edits at every node at once, some of them collisions
    trade.sql the applications' tables
    proof     do the nodes agree, item for item? read from the tables by plain SQL, not by KOD
    display   the flow, live on a terminal, as lines elsewhere; the table that proves
    show      the course of it all

nodes.yaml is the annotated example at the project's root; it is shipped in here (pyproject.toml, force-include).
"""

from node.demo.show import run

__all__ = ["run"]
