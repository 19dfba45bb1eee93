"""nodes.yaml: what is right is read, and everything that is wrong is said at once, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.config import bus_url, database_url, filled_in, masked, read_network
from node.marked import Marked
from schemas.errors import ConfigError
from schemas.network import Network

GOOD = """
network: retail
bus: folder:./exchange
nodes:
  "00":
    name: Head office
    database: postgresql+psycopg://kod:${KOD_PASSWORD}@db0/retail
    send_streams_max: 8
  "01":
    parent: "00"
    database: sqlite:///kazan.sqlite
    identity: {step: 10, offset: 1}
    exchange:
      Catalog.Product: {table: goods, columns: {product_name: title}}
      Catalog.Customer: false
      Document.Order: {sections: {lines: my_lines}}
exchange:
  Catalog.Product: {table: products, reference_data: true, columns: {code: article}}
  Catalog.Customer: {table: customers, reference_data: true}
  Document.Order: {table: orders, sections: {lines: {table: order_details, order: line_no}}, access: order_access}
  Catalog.File: {table: files, owner: order_id, optional: [order_id], references: {order_id: Document.Order}}
  Register.Price: {table: prices, filter: [product_id, period], reference_data: true, collision: parent}
kafka:
  security.protocol: SASL_SSL
  socket.keepalive.enable: true
  sasl.password: ${KOD_PASSWORD}
"""


def read(folder: Path, text: str, started: str | None = None) -> Network:
    path = folder / "nodes.yaml"
    path.write_text(text, encoding="utf-8")
    return read_network(path, started=started)


def faults(folder: Path, text: str, started: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, started)
    return [f"{fault} | {fault.hint}".replace(f"{folder}/", "") for fault in caught.value.faults]


def test_a_node_has_its_own_tables_over_the_general_ones(tmp_path: Path) -> None:
    """Or a node whose table is called otherwise would have to repeat everything, or lose what is general."""
    network = read(tmp_path, GOOD)
    own, general = network.nodes["01"].exchange, network.nodes["00"].exchange
    assert own["Catalog.Product"].table == "goods"
    assert own["Catalog.Product"].columns == {"code": "article", "product_name": "title"}
    assert own["Catalog.Product"].reference_data
    assert not own["Catalog.Customer"].takes_part
    assert own["Document.Order"].sections == {"lines": "my_lines"}
    assert general["Document.Order"].sections == {"lines": "order_details"}
    assert general["Document.Order"].section_order == {"lines": "line_no"}
    assert general["Catalog.Product"].table == "products"
    assert network.nodes["01"].identity == (10, 1)
    assert (network.nodes["00"].send_streams_max, network.nodes["01"].send_streams_max) == (8, 4)
    assert network.kafka["socket.keepalive.enable"] == "true"
    assert network.topology.neighbours("00") == ("01",)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a daemon started from another folder would open, or make, another database."""
    network = read(tmp_path, GOOD)
    monkeypatch.chdir("/")
    monkeypatch.setenv("KOD_PASSWORD", "x")
    assert database_url(network, "01") == f"sqlite:///{tmp_path}/kazan.sqlite"
    assert bus_url(network, "01") == f"folder:{tmp_path}/exchange" == network.bus


def test_a_variable_is_wanted_only_of_the_node_that_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or every node would need every other node's password."""
    monkeypatch.delenv("KOD_PASSWORD", raising=False)
    network = read(tmp_path, GOOD, started="01")
    assert database_url(network, "01")
    (fault,) = faults(tmp_path, GOOD, started="00")
    assert fault.startswith("nodes.yaml:7: database of node '00' needs the variable KOD_PASSWORD, which is not set")
    with pytest.raises(ConfigError, match=r"'00'.*KOD_PASSWORD is not set"):
        database_url(network, "00")
    monkeypatch.setenv("KOD_PASSWORD", "p@ss/w:rd")
    assert database_url(network, "00") == "postgresql+psycopg://kod:p%40ss%2Fw%3Ard@db0/retail"
    assert filled_in(network, "00").kafka["sasl.password"] == "p@ss/w:rd"


def test_all_faults_are_said_at_once_with_their_lines(tmp_path: Path) -> None:
    """Or a person would mend and start, mend and start, a fault at a time."""
    found = faults(
        tmp_path,
        """network: Retail
bus: kafka:/x
packge: a.xsd
hooks: nope.py
nodes:
  00:
    database: sqlite://kazan.sqlite
    send_streams_max: -1
  "01":
    parent: "0O"
    database: oracle://x/y
    heartbeat_s: "3"
    identity: {step: 2, offset: 1}
  "02":
    parent: "00"
    database: postgresql://u:secret@h/db
    identity: {step: 4, offset: 3}
    exchange:
      Catalog.Produkt: false
      Catalog.Product: {reference_data: false, colums: {a: b}}
  "01": {database: "sqlite:///x"}
exchange:
  Catalog.Product: {table: products, reference_data: true, owner: a, sections: {l: {order: x}}}
  Catalog.B: {table: products, references: {a: Catalog.Prodct}, optional: [], access_from: [shops]}
  Catalog.C: {table: c, filter: [a], sections: {lines: d}, access: yes}
""",
    )
    expected = [
        "nodes.yaml:1: 'Retail' is no name for a network",
        "nodes.yaml:2: 'kafka:/x' is no bus",
        "nodes.yaml:3: unknown key 'packge' in nodes.yaml | did you mean 'package'?",
        "nodes.yaml:4: hooks: there is no file nope.py",
        'nodes.yaml:6: a key of nodes has to be a text; 00 is read by YAML as a number | quote it: "00"',
        "nodes.yaml:7: node '00': a SQLite URL has three slashes before the path | sqlite:///kazan.sqlite",
        "nodes.yaml:8: node '00': send_streams_max is -1, it has to be at least 0",
        "nodes.yaml:10: node '01' has parent '0O', which is not a node | did you mean '00'?",
        "nodes.yaml:11: node '01': databases of the kind 'oracle' are not supported",
        "nodes.yaml:12: node '01': heartbeat_s has to be a whole number, not a text",
        "nodes.yaml:17: nodes '01' and '02' would generate the same keys",
        "nodes.yaml:19: node '02': 'Catalog.Produkt' is no type of the exchange | did you mean 'Catalog.Product'?",
        "nodes.yaml:20: node '02': type Catalog.Product: reference_data has to be the same at every node",
        "nodes.yaml:20: unknown key 'colums' in node '02': type Catalog.Product | did you mean 'columns'?",
        "nodes.yaml:21: '01' is there twice in nodes",
        "nodes.yaml:23: type Catalog.Product is reference data and has an owner",
        "nodes.yaml:23: type Catalog.Product: sections.l has no table",
        "nodes.yaml:24: table 'products' is in type Catalog.Product and in type Catalog.B",
        "nodes.yaml:24: type Catalog.B: optional names nothing",
        "nodes.yaml:24: type Catalog.B has access_from and no access",
        "nodes.yaml:24: type Catalog.B: references.a names 'Catalog.Prodct'",
        "nodes.yaml:25: type Catalog.C is a record set (filter) and has sections",
        "nodes.yaml:25: type Catalog.C: access has to be a text; yes is read by YAML as true or false",
    ]
    for beginning in expected:
        assert any(fault.startswith(beginning) for fault in found), (beginning, found)
    assert len(found) == len(expected), found
    lines = [int(fault.split(":")[1]) for fault in found]
    assert lines == sorted(lines)
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ({"00": None, "01": None}, "node '01' has no parent, like node '00'"),
        ({"00": "01", "01": "00"}, "nodes are each other's parents: 00 -> 01 -> 00"),
        ({"00": None, "01": "02", "02": "03", "03": "02"}, "nodes are each other's parents: 02 -> 03 -> 02"),
        ({"00": None, "01": "01"}, "nodes are each other's parents: 01 -> 01"),
    ],
)
def test_nodes_have_to_be_a_tree(tmp_path: Path, parents: dict[str, str | None], expected: str) -> None:
    """Or changes would run in circles, or there would be two networks that never meet."""
    nodes = "".join(
        f'  "{code}": {{database: "sqlite:///{code}.db"' + (f', parent: "{parent}"}}\n' if parent else "}\n")
        for code, parent in parents.items()
    )
    text = f"network: a\nbus: folder:x\nnodes:\n{nodes}exchange:\n  A.B: {{table: t}}\n"
    (fault,) = faults(tmp_path, text)
    assert expected in fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "nodes.yaml:2: not YAML"),
        ("", "nodes.yaml:1: the file is empty"),
        ("- a", "nodes.yaml:1: nodes.yaml has to be a mapping, not a list"),
        ("a\x01: b", "nodes.yaml:1: not YAML"),
        ("network: retail", "nodes.yaml:1: 'nodes' is missing"),
    ],
)
def test_what_is_no_nodes_yaml_is_said_to_be_none(tmp_path: Path, text: str, expected: str) -> None:
    """Or a slip of the keyboard would end in a traceback of the parser."""
    assert any(fault.startswith(expected) for fault in faults(tmp_path, text + "\n"))


def test_a_section_may_have_a_column_of_the_same_name_as_its_object(tmp_path: Path) -> None:
    """Number, name, date: in another language than the package's they would have to be the same column twice."""
    text = """network: a
bus: folder:x
nodes: {"00": {database: "sqlite:///x.db"}}
exchange:
  Document.Order:
    table: orders
    sections: {lines: order_lines}
    reference_data: true
    columns: {name: имя, lines.name: имя, COLUMN: имя}
"""
    own = read(tmp_path, text.replace(", COLUMN: имя", "")).nodes["00"].exchange
    assert own["Document.Order"].columns == {"name": "имя", "lines.name": "имя"}
    (fault,) = faults(tmp_path, text.replace("COLUMN", "lines.title"))
    assert "two properties are the column 'имя'" in fault


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bus: kafka://a:9092,b", "'b' is no broker's address"),
        ("bus: kafka://a:99999", "'a:99999' is no broker's address"),
        ("bus: 'folder:'", "the bus names no folder"),
        ("database: nowhere", "'nowhere' is no database URL"),
        ("database: sqlite:///:memory:", "cannot be in memory only"),
        ("database: postgres://h/d", "begins with postgresql"),
        ("database: postgresql+psycopg2://h/d", "the driver 'psycopg2' is not used here"),
        ("database: postgresql://u:s3cret@h", "does not name a database"),
    ],
)
def test_a_bad_url_is_refused_before_anything_is_opened(tmp_path: Path, line: str, expected: str) -> None:
    """Or the daemon would start, and fail at the first change. What it says never shows a password."""
    key, _, value = line.partition(": ")
    urls = {"bus": "folder:x", "database": "sqlite:///x.db", key: value}
    text = f"""network: a
bus: {urls["bus"]}
nodes:
  "00":
    database: "{urls["database"]}"
exchange:
  A.B: {{table: t}}
"""
    (fault,) = faults(tmp_path, text)
    assert expected in fault
    assert "s3cret" not in fault


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("sqlite:///x.db", "sqlite:///./x.db", True),
        ("postgresql://a:1@DB0/shop", "postgresql+psycopg://b@db0:5432/shop", True),
        ("postgresql://a@db0/shop", "postgresql://a@db0/shop2", False),
        ("postgresql://a@db0/shop", "postgresql://a@db1/shop", False),
        ("${KOD_DATABASE}", "${KOD_DATABASE}", False),
    ],
)
def test_two_nodes_cannot_have_one_database(tmp_path: Path, one: str, other: str, same: bool) -> None:
    """Or two daemons would share one set of registers. A variable may be another one on every machine."""
    text = f"""network: a
bus: folder:x
nodes:
  "00": {{database: "{one}"}}
  "01": {{database: "{other}", parent: "00"}}
exchange: {{A.B: {{table: t}}}}
"""
    if same:
        assert faults(tmp_path, text)[0].startswith("nodes.yaml:5: nodes '00' and '01' have the same database")
    else:
        assert len(read(tmp_path, text).nodes) == 2


def test_anchors_and_merges_of_yaml_work(tmp_path: Path) -> None:
    """Or twenty shops with the same settings would need them twenty times."""
    network = read(
        tmp_path,
        """network: a
bus: folder:x
nodes:
  "00": &shop {database: "sqlite:///a.db", heartbeat_s: 5}
  "01": {<<: *shop, database: "sqlite:///b.db", parent: "00"}
exchange: {A.B: {table: t}}
""",
    )
    assert network.nodes["01"].heartbeat_s == 5
    assert network.nodes["01"].database == "sqlite:///b.db"


def test_exceptions_are_named_with_or_without_a_reason(tmp_path: Path) -> None:
    """A node's own come to those that hold everywhere."""
    network = read(
        tmp_path,
        """network: a
bus: folder:x
nodes:
  "00": {database: "sqlite:///a.db"}
  "01": {database: "sqlite:///b.db", parent: "00", exchange: {A.B: {exceptions: {photo: no photos in shops}}}}
exchange: {A.B: {table: t, exceptions: [price]}}
""",
    )
    assert network.nodes["00"].exchange["A.B"].exceptions == {"price": ""}
    assert network.nodes["01"].exchange["A.B"].exceptions == {"price": "", "photo": "no photos in shops"}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Or the first thing that a newcomer sees would be a traceback."""
    with pytest.raises(ConfigError, match="No such file") as caught:
        read_network(tmp_path / "nodes.yaml")
    assert caught.value.hint


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_text_is_either_read_or_refused_with_a_line(text: str) -> None:
    """Or some odd file would end in a traceback."""
    marked = Marked("n")
    root = marked.parse(text.encode())
    assert root is not None or marked.faults


@given(st.text(alphabet="abc@:/?#&=%", min_size=1, max_size=12))
def test_a_password_is_never_shown(password: str) -> None:
    """Whatever characters it has: URLs get into logs and into people's screenshots."""
    secret = f"S3{password}S3"
    assert secret not in masked(f"postgresql+psycopg://kod:{secret}@db0/retail")
