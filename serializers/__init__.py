"""The wire: what travels, as bytes.

keys      keys of items, inside and where people read them
beside    what of an item has no place in a node's tables
message   the envelope, version 1
signature HMAC of a message by a link's key
digest    the canonical form of values, which nodes compare
composites  values of several types, in columns that hold them as text or as JSON
"""
