"""A node in a SQLite file; the modules are those of node.databases, and

connection   opening the file, and what SQLite's errors mean
folding      the log becomes versions
figures      what `kod status` asks
"""
