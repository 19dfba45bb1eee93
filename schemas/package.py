"""The package: what travels, in which structure. Read from an XSD and written to one by schemas.xsd.

A type is an object (a root with properties, and sections of rows) or a record set (a filter and its records).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NAMESPACE = "http://v8.1c.ru/doc8/CDE/1"

XML_TYPES = (
    "integer",
    "decimal",
    "float",
    "double",
    "boolean",
    "dateTime",
    "date",
    "time",
    "base64Binary",
    "json",
    "string",
)
"""The lexical forms of values. `json` is a string that holds its text; everything that has no form of its own
(interval, arrays, network addresses …) is a string: the database's canonical text. A dateTime bears Z where
`zoned`."""

ANY = "anyType"
"""The form of composites, and the type in `Property.composite` that stands for every one."""


@dataclass(frozen=True, slots=True)
class Property:
    """One value of an item. A `target` makes it a reference: (part of) the key of an item of that type."""

    name: str
    xml: str
    nullable: bool = True
    optional: bool = False
    """minOccurs=0: absent in messages of older nodes; absent, the column is left as it is."""
    target: str | None = None
    length: int | None = None
    digits: tuple[int, int] | None = None
    values: tuple[str, ...] = ()
    zoned: bool = False
    native: str = ""
    """The type in the database that the package was generated from: for people and for conformity."""
    generated: bool = False
    """That database invents the values (serial, identity, autoincrement)."""
    composite: tuple[str, ...] = ()
    """The types that its values may have: of XML_TYPES, or of the package (then the value is a reference); (ANY,) for
    whatever there is. It travels as {"#type": …, "#value": …}, and `xml` is ANY; without any it is no composite."""
    bits: int | None = None
    """Of a whole number, the sign's among them: 8, 16, 32 or 64; None where nothing bounds it."""
    text: str = ""
    """For people. It means nothing to programs, and is not in the fingerprint."""


@dataclass(frozen=True, slots=True)
class PackageSection:
    name: str
    properties: tuple[Property, ...]
    key: tuple[str, ...] = ()
    """The properties that tell the rows of one object apart; empty when nothing does."""
    text: str = ""


@dataclass(frozen=True, slots=True)
class PackageType:
    """A type of the package. `key` names the properties that identify an item, in the key's order: an object's
    primary key, or a record set's filter (whose properties are then the first of `properties`)."""

    name: str
    kind: Literal["object", "record_set"]
    key: tuple[str, ...]
    properties: tuple[Property, ...]
    sections: tuple[PackageSection, ...] = ()
    record_key: tuple[str, ...] = ()
    """The properties that tell the records of one set apart; empty when nothing does."""
    text: str = ""

    def property(self, name: str) -> Property | None:
        return next((p for p in self.properties if p.name == name), None)


@dataclass(frozen=True)
class Package:
    types: dict[str, PackageType]
    fingerprint: str = ""
    """The first 16 hexadecimal digits of SHA-256 over the canonical XSD."""
