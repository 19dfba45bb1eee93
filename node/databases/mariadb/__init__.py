"""A node over MariaDB (10.11 or newer): see node.databases for what each file is.

KOD's own tables lie in the application's database, with `kod_` before their names. One writer of KOD at a time takes
its turn (a named lock of the server), so that the register needs no locks of its own. No statement of ours ever waits
for an application's lock (innodb_lock_wait_timeout = 0), so that a deadlock with one cannot come about.
"""
