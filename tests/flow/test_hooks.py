"""The hooks' file: what is wrong with it is told with the line; and statements as authors write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.databases.statements import bound
from node.hooks.loading import examine, load, overrides
from schemas.errors import ConfigError, MessageError

TYPES = {"Catalog.Product", "Document.Order"}
HEAD = "from node.hooks import Hooks, Source\n"
A = "class A(Hooks, type='Document.Order'):\n  "


def faults(folder: Path, text: str) -> list[str]:
    path = folder / "hooks.py"
    path.write_text(HEAD + text, encoding="utf-8")
    return [f"{fault} | {fault.hint}" for fault in examine(path, TYPES)[1]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class A(Hooks, type='Catalog.Produkt'): ...", ["line 2: A is for 'Catalog.Produkt'", "'Catalog.Product'"]),
        ("class A(Hooks): ...", ["line 2: A is for no type"]),
        (
            "class A(Hooks, type='Document.Order'):\n  def befor_write(self, change, db): ...",
            ["line 3", "'before_write'"],
        ),
        (A + "def owner(self, value): ...", ["line 3", "(self, value, db)"]),
        (
            "class A(Hooks, type='Document.Order'):\n  async def owner(self, value, db): ...",
            ["line 3", "plain function"],
        ),
        (A + "@staticmethod\n  def owner(value, db): ...", ["no plain method"]),
        (A + "sources = ('texts',)", ["A.sources is no list", "Source("]),
        (A + "def __init__(self, x): ...", ["A cannot be made"]),
        ("x = 1\ny = x.nothing", ["line 3", "AttributeError"]),
        ("def f(:\n  pass", ["line 2", "SyntaxError"]),
        ("raise SystemExit('no')", ["line 2", "SystemExit: no"]),
        ("import nowhere_at_all", ["line 2", "nowhere_at_all"]),
    ],
)
def test_a_fault_is_told_with_its_line_and_what_to_do(tmp_path: Path, text: str, said: list[str]) -> None:
    """A method that is misspelt would never be called, and nobody would know."""
    (told,) = faults(tmp_path, text)
    assert all(part in told for part in said), told


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """Also two classes for one type, of which only one could be asked."""
    text = "class A(Hooks, type='Document.Order'): ...\nclass B(Hooks, type='Document.Order'): ...\nclass C(Hooks): ..."
    told = faults(tmp_path, text)
    assert ["A and B" in told[0] or "B and A" in told[0], "C is for no type" in told[1]] == [True, True]
    with pytest.raises(ConfigError) as raised:
        load(tmp_path / "hooks.py", TYPES)
    assert len(raised.value.faults) == 2


def test_what_is_inherited_counts_and_helpers_do_not(tmp_path: Path) -> None:
    """A base class of several types is for none itself."""
    text = """
import helper_beside
class Base(Hooks):
    def _help(self): ...
    def date(self, value, db): return self._help()
class Order(Base, type="Document.Order"):
    sources = [Source("notes", order_id="order_id")]
class Product(Base, type="Catalog.Product"): ...
"""
    (tmp_path / "helper_beside.py").write_text("", encoding="utf-8")
    assert faults(tmp_path, text) == []
    loaded = load(tmp_path / "hooks.py", TYPES)
    assert loaded.overriding("date") == TYPES
    assert not overrides(loaded.by_type["Document.Order"], "owner")
    assert loaded is load(tmp_path / "hooks.py", TYPES)


def test_parameters_are_found_where_they_are_parameters() -> None:
    """Not in texts, names, comments and casts."""
    sql = """SELECT :a, ':b', "x:c", `y:d`, e::text -- :f\n, /* :g */ :имя, :a, '%' """
    values = {"a": 1, "имя": 2}
    assert bound(sql, values, "$") == (sql.replace(":a", "$1").replace(":имя", "$2"), [1, 2])
    placed = sql.replace(":a", "%s").replace(":имя", "%s").replace("'%'", "'%%'")
    assert bound(sql, values, "%s") == (placed, [1, 2, 1])
    with pytest.raises(MessageError, match=":missing"):
        bound("SELECT :missing", {}, "$")
