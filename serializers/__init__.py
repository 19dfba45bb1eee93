"""The wire: what travels, as bytes.

keys      keys of items, inside and where people read them
message   the envelope, version 1
digest    the canonical form of values, which nodes compare
"""
