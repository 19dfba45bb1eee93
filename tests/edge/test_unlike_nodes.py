"""docs/how-to/unlike-nodes.md, run from its own blocks: PostgreSQL in English, SQLite in Russian, and a shop behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.edge.network import Node, TestNetwork
from tests.servers import postgresql_url

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "unlike-nodes.md"
ORDER = ("00", "01", "11", "01", "00")
"""Rounds in this order take everything from anywhere to everywhere."""


def blocks(document: Path) -> dict[str, str]:
    """The document's blocks that bear a name after their language."""
    found = re.findall(r"^```\w+ (\S+)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return dict(found)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestNetwork]:
    """The network of the document, installed, with a few items made at the head office."""
    folder, text, url = tmp_path_factory.mktemp("unlike"), blocks(DOCUMENT), postgresql_url()
    nodes = [Node("00", text["00"], url=url), Node("01", text["01"], "00"), Node("11", text["00"], "01")]
    network = TestNetwork(folder, nodes, yaml.safe_load(text["nodes.yaml"])["exchange"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEAD_OFFICE", url)
        network.path.write_text(text["nodes.yaml"], encoding="utf-8")
        network.install()
        network.execute(
            "00",
            "INSERT INTO catalog_groups VALUES (1, NULL, 'All'), (2, 1, 'Tea')",
            "INSERT INTO products VALUES (11, 2, 'Чай', 12.50, 0.100, '\\xCAFE', true),"
            " (12, 2, 'Tea', 7, NULL, NULL, false)",
            "INSERT INTO customers VALUES ('A', 'Anna', 'anna@example.org', 1000), ('B', 'Boris', NULL, NULL)",
            "INSERT INTO orders VALUES (1, 'A', '2026-11-01 10:00:00.5', 'by phone'), (2, 'B', NULL, NULL)",
            "INSERT INTO order_lines VALUES (1, 1, 11, 2.500, 5.00), (1, 2, 12, 1, NULL), (2, 1, 11, 1, NULL)",
            "INSERT INTO prices VALUES (11, '2026-11-01', 'RUB', 12.50, 'Olga'), (11, '2026-11-01', 'EUR', 0.13, NULL)",
            "INSERT INTO warehouses VALUES ('W', 'Kazan')",
            "INSERT INTO discounts VALUES ('D', 2.5)",
        )
        exchange(network)
        yield network
        network.close()


def exchange(network: TestNetwork) -> None:
    for code in ORDER:
        network.kod("run", "--node", code, "--once")


def test_all_that_the_head_office_has_is_at_the_branch_in_its_own_words_and_whole_behind_it(
    unlike: TestNetwork,
) -> None:
    """What the branch has no column or no table for would be cut for the shop behind it."""
    rows = unlike.rows
    assert rows("01", 'SELECT "Код", "Группа", "Наименование", "Цена", "ВПродаже" FROM "Номенклатура" ORDER BY 1') == [
        (11, 2, "Чай", "12.50", 1),
        (12, 2, "Tea", "7.00", 0),
    ]
    assert rows("01", 'SELECT * FROM "Контрагенты" ORDER BY 1') == [("A", "Anna", 1, None), ("B", "Boris", 1, None)]
    assert rows("01", 'SELECT * FROM "Заказы" ORDER BY 1') == [(1, "A", "2026-11-01 10:00:00.5"), (2, "B", None)]
    assert rows("01", 'SELECT * FROM "СтрокиЗаказов" ORDER BY 1, 2') == [
        (1, 1, 11, "2.500"),
        (1, 2, 12, "1.000"),
        (2, 1, 11, "1.000"),
    ]
    assert len(rows("01", 'SELECT * FROM "Цены"')) == 2
    for table in ("customers", "orders", "order_lines", "prices", "warehouses", "discounts", "catalog_groups"):
        assert len(rows("11", f"SELECT * FROM {table}")) == len(rows("00", f"SELECT * FROM {table}")), table
    assert rows("11", "SELECT hex(photo), name FROM products WHERE product_id = 11") == [("CAFE", "Чай")]
    assert rows("11", "SELECT set_by FROM prices ORDER BY currency") == [(None,), ("Olga",)]
    assert rows("11", "SELECT discount FROM order_lines ORDER BY order_id, line") == [(5,), (None,), (None,)]


def test_edits_both_ways_leave_alone_what_the_writer_does_not_see(unlike: TestNetwork) -> None:
    """By the view and by the table behind it; a deletion, a new order, changed rows. The head office's own columns
    would be emptied by a branch that has none of them."""
    unlike.execute(
        "01",
        """UPDATE "Номенклатура" SET "Цена" = '13.75', "Полка" = 'A7' WHERE "Код" = 11""",
        """UPDATE "Покупатели" SET "Имя" = 'Анна' WHERE "Код" = 'A'""",
        """UPDATE "Контрагенты" SET "ИНН" = '77' WHERE "Код" = 'A'""",
        """INSERT INTO "Покупатели" VALUES ('C', 'Семён')""",
        """INSERT INTO "Контрагенты" VALUES ('S', 'Поставщик', 0, NULL)""",
        """INSERT INTO "Контрагенты" VALUES ('D', 'Дарья', 1, '78')""",
        """INSERT INTO "Заказы" VALUES (3, 'C', '2026-11-02 08:00:00')""",
        """INSERT INTO "СтрокиЗаказов" VALUES (3, 1, 11, '0.5')""",
        """UPDATE "СтрокиЗаказов" SET "Количество" = '4' WHERE "Заказ" = 1 AND "Строка" = 1""",
        """DELETE FROM "СтрокиЗаказов" WHERE "Заказ" = 1 AND "Строка" = 2""",
        """DELETE FROM "Заказы" WHERE "Номер" = 2""",
        """UPDATE "Цены" SET "Цена" = '14' WHERE "Валюта" = 'RUB'""",
        """DELETE FROM "Цены" WHERE "Валюта" = 'EUR'""",
    )
    unlike.execute("01", """UPDATE "Контрагенты" SET "Покупатель" = 0 WHERE "Код" = 'B'""")
    exchange(unlike)
    rows = unlike.rows
    for code in ("00", "11"):
        products = rows(code, "SELECT price, weight FROM products ORDER BY product_id")
        assert [(float(price), weight and float(weight)) for price, weight in products] == [(13.75, 0.1), (7.0, None)]
        assert rows(code, "SELECT code, name, email FROM customers ORDER BY 1") == [
            ("A", "Анна", "anna@example.org"),
            ("C", "Семён", None),
            ("D", "Дарья", None),
        ]
        assert rows(code, "SELECT order_id, note FROM orders ORDER BY 1") == [(1, "by phone"), (3, None)]
        lines = rows(code, "SELECT line, quantity, discount FROM order_lines WHERE order_id = 1")
        assert [tuple(map(float, row)) for row in lines] == [(1.0, 4.0, 5.0)]
        assert [(c.strip(), float(p), s) for c, p, s in rows(code, "SELECT currency, price, set_by FROM prices")] == [
            ("RUB", 14.0, "Olga")
        ]
    what_the_shop_writes(unlike)


def what_the_shop_writes(unlike: TestNetwork) -> None:
    """It comes through the branch whole, and leaves alone what only the branch has."""
    unlike.execute(
        "11",
        "UPDATE products SET name = 'Чай чёрный', photo = x'00' WHERE product_id = 11",
        "UPDATE customers SET credit_limit = 5 WHERE code = 'D'",
        "INSERT INTO warehouses VALUES ('V', 'Volga')",
        "DELETE FROM warehouses WHERE code = 'W'",
        "UPDATE discounts SET percent = 3",
        "DELETE FROM order_lines WHERE order_id = 3",
        "DELETE FROM orders WHERE order_id = 3",
        "DELETE FROM customers WHERE code = 'C'",
        "UPDATE prices SET set_by = 'Pavel'",
    )
    exchange(unlike)
    rows = unlike.rows
    assert rows("01", """SELECT "Наименование", "Полка" FROM "Номенклатура" WHERE "Код" = 11""") == [
        ("Чай чёрный", "A7")
    ]
    assert rows("01", """SELECT "Код", "ИНН", "Покупатель" FROM "Контрагенты" ORDER BY 1""") == [
        ("A", "77", 1),
        ("B", None, 0),
        ("D", "78", 1),
        ("S", None, 0),
    ]
    assert rows("00", "SELECT credit_limit FROM customers WHERE code = 'D'") == [(5,)]
    assert rows("00", "SELECT code FROM warehouses") == [("V",)]
    assert [float(p) for (p,) in rows("00", "SELECT percent FROM discounts")] == [3.0]
    assert rows("00", "SELECT set_by FROM prices") == [("Pavel",)]


def test_compare_agrees_with_the_branch_and_with_the_shop(unlike: TestNetwork) -> None:
    """Digests are over what both have."""
    for code in ("01", "11"):
        compared = unlike.json("compare", "--node", "00", "--with", code)
        assert compared["differences"] == [], compared
    assert unlike.status("01")["parked"] == unlike.status("00")["parked"] == 0


def test_every_difference_is_said_with_its_meaning(unlike: TestNetwork) -> None:
    """What is kept, or waits, has to be known beforehand."""
    found = json.loads(unlike.kod("schema", "check", "--node", "01", "--json", exit_code=1).stdout)
    effects = {(f["type"], f["property"]): f["effect"] for f in found}
    kept = [("Catalog.Product", "photo"), ("Catalog.Product", "weight"), ("Catalog.Customer", "email")]
    kept += [("Document.Order", "lines.discount"), ("InformationRegister.Price", "set_by"), ("Catalog.Warehouse", None)]
    assert {effects[one] for one in kept} == {"will not arrive"}
    assert all("kept and passed on" in f["hint"] for f in found if (f["type"], f["property"]) in kept)
    assert "refused" not in effects.values()
    assert not any(f["type"] == "Catalog.Customer" and "view" in f["text"] for f in found)
