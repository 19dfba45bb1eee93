"""Whether a column holds what the package says of a property, and what happens to values that it does not hold.

Nothing is ever cut, rounded or shortened in silence: a value that does not fit stops its item, which waits, parked. So
each difference is told before it happens, with the values that it concerns.
"""

from __future__ import annotations

from typing import NamedTuple

from schemas.package import ANY, Property
from schemas.tables import Column

INEXACT = ", not exact"
"""Marks a type in the package whose own database does not hold every value of its form."""

_NUMBERS = ("integer", "decimal", "float", "double")
_TEXTUAL = ("string", "json")

_EXACT_DIGITS = {"double": 15, "float": 6}
"""They give back every decimal of so many significant digits (IEEE 754)."""
_EXACT_BITS = {"double": 54, "float": 25}
"""Whole numbers of so many bits, the sign's among them, are exact in it."""


_TEXT_LENGTHS = {"boolean": 5, "date": 10, "time": 15, "integer": 20, "float": 15, "double": 24, "dateTime": 27}
_TEXT_LENGTHS |= {"decimal": 40, "base64Binary": 1_000_000, "json": 1_000_000}
"""Characters that values of a form may need as texts."""


class Misfit(NamedTuple):
    """`effect` as of Mismatch. "refused": no value of the one is one of the other."""

    effect: str
    text: str
    hint: str = ""


_WAITS = "a value that does not fit waits, parked; it is never changed"


def misfit(prop: Property, column: Column, where: str) -> Misfit | None:
    """What people have to know of a property in this column; None where it holds whatever comes."""
    if prop.composite or prop.xml == ANY:
        return None
    if prop.xml != column.xml and column.xml not in _TEXTUAL:
        return _of_other_form(prop, column, where)
    if column.xml == "json" and prop.xml != "json":
        text = f"it is {prop.xml} in the package, {where} takes JSON only"
        effect = "cannot be read" if prop.xml == "string" else "refused"
        return Misfit(effect, text, f"a text that is no JSON waits, parked: make {where} a text")
    if prop.xml == column.xml:
        return _inexact(prop, column, where) or _narrower(prop, column, where)
    if column.length is not None and column.length < _TEXT_LENGTHS.get(prop.xml, 0):
        text = f"it is {prop.xml} in the package, {where} holds {column.length} characters"
        return Misfit("will be cut", text, _WAITS)
    return None


def _inexact(prop: Property, column: Column, where: str) -> Misfit | None:
    if not column.why_inexact or prop.native.endswith(INEXACT):  # what the package's database cannot hold does not come
        return None
    if prop.xml == "decimal" and prop.digits is not None and prop.digits[0] <= _EXACT_DIGITS["double"]:
        return None
    # values of a float that SQLite lacks, and lone numbers as JSON, are rare: told, but no reason to stop
    effect = "note" if prop.xml in ("float", "double", "json") else "will be cut"
    return Misfit(effect, f"{where} ({column.native}): {column.why_inexact}")


def _narrower(prop: Property, column: Column, where: str) -> Misfit | None:
    """The same form, and less room."""
    if column.values or prop.values:
        return _other_values(prop, column, where)
    if prop.xml in _TEXTUAL and column.length is not None:
        if prop.length is None:
            text = f"{where} holds {column.length} characters, the package any number"
            return Misfit("note", text, "a longer value waits, parked")
        if column.length < prop.length:
            text = f"{where} holds {column.length} characters, the package {prop.length}"
            return Misfit("will be cut", text, "a longer value waits, parked; it is never shortened")
    if prop.xml == "decimal" and column.digits is not None:
        return _fewer_digits(prop.digits, column.digits, where)
    if prop.xml == "integer" and column.bits is not None and (prop.bits is None or column.bits < prop.bits):
        bits = "any number of" if prop.bits is None else str(prop.bits)
        effect = "note" if prop.bits is None else "will be cut"
        return Misfit(effect, f"{where} holds whole numbers of {column.bits} bits, the package {bits}", _WAITS)
    own_type = prop.native.removesuffix(INEXACT) == column.native
    if column.second_digits is not None and not own_type and prop.xml in ("dateTime", "time"):
        text = f"{where} keeps {column.second_digits} digits of a second"
        return Misfit("note", text, "a time with more waits, parked")
    if prop.xml == "dateTime" and prop.zoned != column.zoned:
        own, other = ("has a time zone", "has none") if column.zoned else ("has no time zone", "has one")
        return Misfit("note", f"{where} {own}, the package {other}", "moments are taken for UTC there")
    return None


def _fewer_digits(wanted: tuple[int, int] | None, own: tuple[int, int], where: str) -> Misfit | None:
    if wanted is None:
        text = f"{where} holds {own[0]} digits, {own[1]} of them behind the point, the package any number"
        return Misfit("note", text, _WAITS)
    if own[1] >= wanted[1] and own[0] - own[1] >= wanted[0] - wanted[1]:
        return None
    text = f"{where} holds {own[0]} digits, {own[1]} of them behind the point, the package {wanted[0]} and {wanted[1]}"
    return Misfit("will be cut", text, _WAITS)


def _other_values(prop: Property, column: Column, where: str) -> Misfit | None:
    lacking = [value for value in prop.values if value not in column.values] if column.values else []
    if lacking:
        return Misfit("will be cut", f"{where} does not have the values {', '.join(lacking)}", _WAITS)
    if column.values and not prop.values:
        text = f"{where} takes {len(column.values)} values only, the package any text"
        return Misfit("note", text, _WAITS)
    unknown = [value for value in column.values if value not in prop.values]
    if unknown:
        text = f"{where} has the values {', '.join(unknown)}, which the package does not have"
        return Misfit("note", text, "where another node does not take them either, they wait there")
    return None


def _of_other_form(prop: Property, column: Column, where: str) -> Misfit | None:
    """The package's form is another than the column's, which is no text."""
    pair = (prop.xml, column.xml)
    text = f"it is {prop.xml} in the package, {where} is {column.native}"
    if pair == ("float", "double"):
        return None
    if pair in (("date", "dateTime"), ("boolean", "integer"), ("boolean", "decimal")):
        return Misfit("note", text)
    if pair == ("integer", "decimal"):
        fits = column.digits is None or prop.bits is None or 10 ** (column.digits[0] - column.digits[1]) > 2**prop.bits
        return Misfit("note", text) if fits else Misfit("will be cut", text, _WAITS)
    if prop.xml == "integer" and column.xml in _EXACT_BITS:
        fits = prop.bits is not None and prop.bits <= _EXACT_BITS[column.xml]
        return Misfit("note" if fits else "will be cut", text, "" if fits else _lost(column))
    if prop.xml == "decimal" and column.xml in _EXACT_BITS:
        if prop.digits is not None and prop.digits[0] <= _EXACT_DIGITS[column.xml]:
            return Misfit("note", text)
        return Misfit("will be cut", text, _lost(column))
    if pair == ("decimal", "integer") and prop.digits is not None and prop.digits[1] <= 0:
        return Misfit("note", text)
    if pair == ("double", "float"):
        return Misfit("will be cut", text, _lost(column))
    if (prop.xml in _NUMBERS and column.xml in _NUMBERS) or pair == ("dateTime", "date"):
        return Misfit("will be cut", text, f"{_WAITS}; give the column the package's type")
    if pair in (("integer", "boolean"), ("decimal", "boolean")):
        return Misfit("cannot be read", text, "0 and 1 are; whatever else waits, parked")
    if prop.xml == "string" and column.xml in ("dateTime", "date", "time"):
        return Misfit(
            "cannot be read", text, "what is written otherwise waits, parked; give the column a type for texts"
        )
    hint = "no value of the one is one of the other: change the column, map the property to another one in `columns`,"
    return Misfit("refused", text, f"{hint} or leave it out here (`exclude`)")


def _lost(column: Column) -> str:
    digits = _EXACT_DIGITS[column.xml]
    return f"digits after the {digits}th are lost in it: give the column the package's type"
