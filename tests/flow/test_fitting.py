"""Verdicts on what a package says and a column holds. What they say is tried on databases in
tests/contract/test_fitting.py."""

from __future__ import annotations

import pytest

from schemas.fitting import misfit
from schemas.package import ANY, Property
from schemas.tables import Column

# . holds everything   n worth knowing   c will be cut   r cannot be read   # refused
VERDICTS = """
               integer decimal float double boolean dateTime date time base64Binary json string
integer        .       n       c     c      r       #        #    #    #            #    .
decimal        c       .       c     c      r       #        #    #    #            #    .
float          c       c       .     .      #       #        #    #    #            #    .
double         c       c       c     .      #       #        #    #    #            #    .
boolean        n       n       #     #      .       #        #    #    #            #    .
dateTime       #       #       #     #      #       .        c    #    #            #    .
date           #       #       #     #      #       n        .    #    #            #    .
time           #       #       #     #      #       #        #    .    #            #    .
base64Binary   #       #       #     #      #       #        #    #    .            #    .
json           #       #       #     #      #       #        #    #    #            .    .
string         #       #       #     #      #       r        r    r    #            r    .
"""
FORMS = VERDICTS.split("\n")[1].split()
_EFFECTS = {None: ".", "note": "n", "will be cut": "c", "cannot be read": "r", "refused": "#"}


def test_every_pair_of_forms_has_a_verdict() -> None:
    """Or a pair that nobody thought of would meet in SQL, and stop the whole node."""
    rows = [line.split() for line in VERDICTS.split("\n")[2:-1]]
    expected = {(row[0], own): mark for row in rows for own, mark in zip(FORMS, row[1:], strict=True)}
    found = {}
    for xml in FORMS:
        for own in FORMS:
            verdict = misfit(Property("p", xml), Column("c", own, own), "t.c")
            found[xml, own] = _EFFECTS[verdict.effect if verdict else None]
            assert verdict is None or verdict.effect == "note" or verdict.hint, "what is lost comes with what to do"
    assert found == expected


_TEXT, _MONEY = Property("p", "string", length=40), Property("p", "decimal", digits=(15, 2))
_INT, _STATE = Property("p", "integer", bits=32), Property("p", "string", values=("new", "paid"))


@pytest.mark.parametrize(
    ("prop", "column", "effect", "text"),
    [
        (_TEXT, Column("c", "varchar(40)", "string", length=40), None, ""),
        (
            _TEXT,
            Column("c", "varchar(20)", "string", length=20),
            "will be cut",
            "20 characters, the package 40",
        ),
        (Property("p", "string"), Column("c", "varchar(20)", "string", length=20), "note", "the package any number"),
        (_TEXT, Column("c", "text", "string"), None, ""),
        (Property("p", "date"), Column("c", "varchar(8)", "string", length=8), "will be cut", "holds 8 characters"),
        (_MONEY, Column("c", "numeric(18,4)", "decimal", digits=(18, 4)), None, ""),
        (_MONEY, Column("c", "numeric(15,4)", "decimal", digits=(15, 4)), "will be cut", "15 digits, 4 of them"),
        (_MONEY, Column("c", "numeric(18,1)", "decimal", digits=(18, 1)), "will be cut", "18 digits, 1 of them"),
        (Property("p", "decimal"), Column("c", "numeric(9,2)", "decimal", digits=(9, 2)), "note", "the package any"),
        (_MONEY, Column("c", "double precision", "double"), "note", "it is decimal"),
        (Property("p", "decimal", digits=(16, 2)), Column("c", "double", "double"), "will be cut", "it is decimal"),
        (_INT, Column("c", "bigint", "integer", bits=64), None, ""),
        (_INT, Column("c", "smallint", "integer", bits=16), "will be cut", "whole numbers of 16 bits, the package 32"),
        (_INT, Column("c", "double", "double"), "note", "it is integer"),
        (_INT, Column("c", "numeric(9,0)", "decimal", digits=(9, 0)), "will be cut", "it is integer"),
        (_INT, Column("c", "numeric(10,0)", "decimal", digits=(10, 0)), "note", "it is integer"),
        (_STATE, Column("c", "enum", "string", values=("new", "paid")), None, ""),
        (_STATE, Column("c", "enum", "string", values=("new",)), "will be cut", "does not have the values paid"),
        (_STATE, Column("c", "enum", "string", values=("new", "paid", "lost")), "note", "has the values lost"),
        (_STATE, Column("c", "text", "string"), None, ""),
        (Property("p", "dateTime"), Column("c", "timestamptz", "dateTime"), "note", "has a time zone"),
        (Property("p", "time"), Column("c", "time(0)", "time", second_digits=0), "note", "0 digits of a second"),
        (Property("p", ANY, composite=("string",)), Column("c", "int", "integer"), None, ""),
    ],
)
def test_less_room_is_named_with_what_it_means(prop: Property, column: Column, effect: str | None, text: str) -> None:
    """Or the first value that does not fit would be the first that anybody hears of it."""
    verdict = misfit(prop, column, "t.c")
    assert (verdict and verdict.effect) == effect
    assert verdict is None or text in verdict.text
