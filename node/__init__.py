"""The edge: where the flow meets people, databases and buses.

__main__    the program `kod`; cli, one file for each command
service     a node's daemon: the only place where the parts meet
identity    whose life a database holds: moved, copied, restored; recovering, a lost node rebuilt by its neighbours
opened      a node's database, and the structure that package, nodes.yaml and tables make together
packages    the package's file, and what is kept of it between starts; loading, another one for running daemons
config      nodes.yaml, read and checked with all its faults at once; marked, YAML with line marks
status      what `kod status` shows; checking, explaining, comparing, journal, the same for their commands;
            waiting, the items in parked messages; histories, how far histories are; draining, `kod drain`
report      tables for people, JSON for programs; log, log lines; clock, the machine's time
demo        `kod demo`: a network of its own
databases   a folder for each dialect, the same file names in each
hooks       what an installation overrides in Python, and what calls it
buses       folder, Kafka, memory
"""
