"""The package as an XSD, and back.

    Package -> write_xsd -> bytes -> read_xsd -> the same Package

Each type is a named complexType of its full name. What XSD has words for is said in them (elements, nillable,
minOccurs, maxLength, totalDigits, enumerations); what it has not (keys, the target of a reference, the type in the
database) stands in xs:appinfo and may be absent: an XSD written by hand is read with the defaults of `read_xsd`.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from schemas.errors import ConfigError, Fault
from schemas.package import ANY, NAMESPACE, XML_TYPES, Package, PackageSection, PackageType, Property

XS = "http://www.w3.org/2001/XMLSchema"
KOD = "urn:kod:package:1"
_DOCUMENTATION = f"{XS} documentation"
REFERENCE = "Reference"
FILTER, RECORDS = "Filter", "Records"

_NAME_START = (
    "A-Z_a-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c-\u200d\u2070-\u218f"
    "\u2c00-\u2fef\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd"
)
# xmlschema and libxml2 judge names by XML 1.0's fourth edition at heart: letters, digits and . - _
_NAME = re.compile(f"[{_NAME_START}][{_NAME_START}0-9.\\-\u00b7\u0300-\u036f]*")
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_WIDTHS = {8: "byte", 16: "short", 32: "int", 64: "long"}
_BITS = {name: bits for bits, name in _WIDTHS.items()}
_LENGTHS = ("string", "json", "base64Binary")

_INTEGERS = """
    integer byte short int long unsignedByte unsignedShort unsignedInt unsignedLong
    nonNegativeInteger positiveInteger nonPositiveInteger negativeInteger
"""
_STRINGS = """
    string normalizedString token language Name NCName NMTOKEN ID IDREF ENTITY anyURI QName hexBinary duration
    gYear gYearMonth gMonth gMonthDay gDay
"""
_BUILT_IN = {
    **dict.fromkeys(_INTEGERS.split(), "integer"),
    **dict.fromkeys(_STRINGS.split(), "string"),
    **{name: name for name in ("decimal", "float", "double", "boolean", "dateTime", "date", "time", "base64Binary")},
    "dateTimeStamp": "dateTime",
    "anyType": ANY,
}


# --- writing --------------------------------------------------------------------------------------------------------


def write_xsd(package: Package) -> bytes:
    """The package as an XSD: the same bytes for the same package, whatever its fingerprint says.

    Raises ConfigError for names that XML does not allow, all at once.
    """
    faults = [fault for of_type in package.types.values() for fault in _name_faults(of_type)]
    if faults:
        raise ConfigError("the package cannot be written", faults=faults)
    return _text(package).encode()


def _text(package: Package, *, texts: bool = True) -> str:
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<xs:schema xmlns:xs="{XS}" xmlns:kod="{KOD}" xmlns="{NAMESPACE}"',
        f'           targetNamespace="{NAMESPACE}" elementFormDefault="qualified">',
        "  <xs:annotation>",
        "    <xs:documentation>What travels between the nodes: one complexType for each type. kod:… says what XSD has",
        "    no words for: keys, what a reference refers to, the type in the database that it was generated from.",
        "    </xs:documentation>",
        "  </xs:annotation>",
        *REFERENCE_LINES,
    ]
    for of_type in package.types.values():
        lines += type_lines(of_type, texts=texts)
    lines.append("</xs:schema>")
    return "\n".join(lines) + "\n"


REFERENCE_LINES = (
    f'  <xs:simpleType name="{REFERENCE}">',
    "    <xs:annotation>",
    "      <xs:documentation>The key of another item, or a part of it.</xs:documentation>",
    "    </xs:annotation>",
    '    <xs:restriction base="xs:string"/>',
    "  </xs:simpleType>",
)


def fingerprinted(package: Package) -> Package:
    """The package with its fingerprint: the first 16 hexadecimal digits of SHA-256 over its canonical XSD, but for what
    is only for people."""
    return replace(package, fingerprint=hashlib.sha256(_text(package, texts=False).encode()).hexdigest()[:16])


def _name_faults(of_type: PackageType) -> Iterator[Fault]:
    where = f"type {of_type.name}"
    if not _NAME.fullmatch(of_type.name) or of_type.name == REFERENCE:
        yield Fault(where, f"{of_type.name!r} cannot be a type's name in XML", "e.g. Catalog.Product")
    groups = [("", [*(p.name for p in of_type.properties), *(s.name for s in of_type.sections)])]
    groups += [(f"section {s.name}: ", [p.name for p in s.properties]) for s in of_type.sections]
    for group, names in groups:
        for name in dict.fromkeys(names):
            if not _NAME.fullmatch(name):
                hint = f"give it a name in nodes.yaml: {of_type.name}: {{columns: {{a_name: {name!r}}}}}"
                yield Fault(where, f"{group}{name!r} is no name in XML", hint)
            elif names.count(name) > 1:
                yield Fault(where, f"{group}{name!r} is there twice", "map one of them to another name in `columns`")
    for key in set(of_type.key) - {p.name for p in of_type.properties}:
        yield Fault(where, f"its key {key!r} does not travel", "take it out of `exclude`")
    for prop in (*of_type.properties, *(p for s in of_type.sections for p in s.properties)):
        for name in prop.composite:
            if not _NAME.fullmatch(name):
                yield Fault(where, f"{prop.name}: {name!r} cannot be a type's name in XML", "e.g. Catalog.Product")
        for text in (prop.native, prop.target or "", prop.text, *prop.values):
            if _NOT_XML.search(text):
                yield Fault(where, f"{prop.name}: {text!r} has characters that XML does not allow")


def type_lines(of_type: PackageType, *, texts: bool = True) -> Iterator[str]:
    yield f"  <xs:complexType name={quoteattr(of_type.name)}>"
    said = {"kind": of_type.kind, "key": " ".join(of_type.key)}
    yield from _annotation(of_type.text if texts else "", said, "type", "    ")
    yield "    <xs:sequence>"
    if of_type.kind == "record_set":
        filtered, records = filter_and_records(of_type)
        yield from rows_lines(filtered, "      ", many=False, texts=texts)
        yield from rows_lines(records, "      ", texts=texts)
    else:
        for prop in of_type.properties:
            yield from property_lines(prop, "      ", texts=texts)
    for section in of_type.sections:
        yield from rows_lines(section, "      ", texts=texts)
    yield "    </xs:sequence>"
    yield "  </xs:complexType>"


def filter_and_records(of_type: PackageType) -> tuple[PackageSection, PackageSection]:
    """The two parts of a record set, as the XSD has them."""
    filtered = tuple(p for p in of_type.properties if p.name in of_type.key)
    records = tuple(p for p in of_type.properties if p.name not in of_type.key)
    return PackageSection(FILTER, filtered), PackageSection(RECORDS, records, of_type.record_key)


def rows_lines(rows: PackageSection, indent: str, *, many: bool = True, texts: bool = True) -> Iterator[str]:
    occurs = ' minOccurs="0" maxOccurs="unbounded"' if many else ""
    yield f"{indent}<xs:element name={quoteattr(rows.name)}{occurs}>"
    yield from _annotation(
        rows.text if texts else "", {"key": " ".join(rows.key)} if many else {}, "rows", indent + "  "
    )
    yield f"{indent}  <xs:complexType>"
    yield f"{indent}    <xs:sequence>"
    for prop in rows.properties:
        yield from property_lines(prop, indent + "      ", texts=texts)
    yield f"{indent}    </xs:sequence>"
    yield f"{indent}  </xs:complexType>"
    yield f"{indent}</xs:element>"


def property_lines(prop: Property, indent: str, *, texts: bool = True) -> Iterator[str]:
    facets, said = _facets(prop)
    appinfo = _said_apart(prop, said)
    if prop.native:
        appinfo["made"] = made(prop)
    text = prop.text if texts else ""
    base = REFERENCE if prop.target is not None else f"xs:{_base(prop)}"
    head = f"{indent}<xs:element name={quoteattr(prop.name)}"
    if not facets:
        head += f' type="{base}"'
    if prop.nullable:
        head += ' nillable="true"'
    if prop.optional:
        head += ' minOccurs="0"'
    if not facets and not appinfo and not text:
        yield head + "/>"
        return
    yield head + ">"
    yield from _annotation(text, appinfo, "property", indent + "  ", () if "values" in said else prop.values)
    if facets:
        yield f"{indent}  <xs:simpleType>"
        yield f'{indent}    <xs:restriction base="{base}">'
        for name, value in facets:
            yield f"{indent}      <xs:{name} value={_attribute(value)}/>"
        yield f"{indent}    </xs:restriction>"
        yield f"{indent}  </xs:simpleType>"
    yield f"{indent}</xs:element>"


def made(prop: Property) -> str:
    """A checksum of what the database said of a property when it was generated. What people change in it afterwards
    (but for its text, and whether it is optional) is told by it."""
    facets, said = _facets(prop)
    apart = _said_apart(prop, said)
    facts = (prop.xml, prop.bits, prop.nullable, facets, sorted(apart.items()), () if "values" in said else prop.values)
    return f"{zlib.crc32(repr(facts).encode()):08x}"


def _base(prop: Property) -> str:
    if prop.xml == "integer":
        return _WIDTHS.get(prop.bits or 0, "integer")
    return "string" if prop.xml == "json" else prop.xml


def _facets(prop: Property) -> tuple[list[tuple[str, str]], set[str]]:
    """What of a property XSD itself can say, and which of its fields that covers."""
    facets: list[tuple[str, str]] = []
    said: set[str] = set()
    if prop.target is not None:
        return facets, said
    if prop.xml == "integer" and prop.bits in _WIDTHS:
        said.add("bits")
    if prop.xml in _LENGTHS and prop.length is not None and prop.length >= 0 and not prop.values:
        facets.append(("maxLength", str(prop.length)))
        said.add("length")
    if prop.xml == "decimal" and prop.digits is not None and 0 <= prop.digits[1] <= prop.digits[0] >= 1:
        facets += [("totalDigits", str(prop.digits[0])), ("fractionDigits", str(prop.digits[1]))]
        said.add("digits")
    if prop.xml == "string" and prop.values:
        facets += [("enumeration", value) for value in prop.values]
        said.add("values")
    return facets, said


def _said_apart(prop: Property, said: set[str]) -> dict[str, str]:
    found = {
        "target": prop.target,
        "xml": prop.xml if prop.target is not None or prop.xml == "json" else None,
        "length": str(prop.length) if prop.length is not None and "length" not in said else None,
        "digits": f"{prop.digits[0]} {prop.digits[1]}" if prop.digits is not None and "digits" not in said else None,
        "bits": str(prop.bits) if prop.bits is not None and "bits" not in said else None,
        "values": str(len(prop.values)) if prop.values and "values" not in said else None,
        "zoned": "true" if prop.zoned else None,
        "native": prop.native or None,
        "generated": "true" if prop.generated else None,
        "composite": " ".join(prop.composite) if prop.composite not in ((), (ANY,)) else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _annotation(
    text: str, attributes: Mapping[str, str], name: str, indent: str, values: Sequence[str] = ()
) -> Iterator[str]:
    """What is said to people, and to KOD under kod:name."""
    said = "".join(f" {key}={_attribute(value)}" for key, value in attributes.items() if value or key != "key")
    inside = "".join(f"<kod:value is={_attribute(value)}/>" for value in values)
    element = f"<kod:{name}{said}>{inside}</kod:{name}>" if inside else f"<kod:{name}{said}/>"
    appinfo = f"<xs:appinfo>{element}</xs:appinfo>" if said or inside else ""
    if text:
        yield f"{indent}<xs:annotation>"
        yield f"{indent}  <xs:documentation>{_escaped(text)}</xs:documentation>"
        if appinfo:
            yield f"{indent}  {appinfo}"
        yield f"{indent}</xs:annotation>"
    elif appinfo:
        yield f"{indent}<xs:annotation>{appinfo}</xs:annotation>"


def _escaped(text: str) -> str:
    return escape(text, {"\r": "&#13;"})


def _attribute(value: str) -> str:
    """Quoted so that parsers give it back as it is: they turn plain line ends and tabs in attributes into spaces."""
    return f'"{escape(value, {chr(34): "&quot;", chr(10): "&#10;", chr(13): "&#13;", chr(9): "&#9;"})}"'


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    line: int
    prefixes: Mapping[str, str]
    outside: Mapping[str, str] = field(default_factory=dict)
    """The prefixes that are known around it; `prefixes`: within it."""
    begins: int = 0
    """Where its start tag begins, in bytes."""
    ends: int = 0
    """Where its end tag begins, if it has one."""
    children: list[Element] = field(default_factory=list)
    text: str = ""
    """Of documentation."""

    def all(self, *names: str) -> list[Element]:
        return [c for c in self.children if c.tag in {f"{XS} {n}" for n in names}]

    def first(self, *names: str) -> Element | None:
        return next(iter(self.all(*names)), None)

    def get(self, name: str) -> str | None:
        return self.attributes.get(name)

    def documentation(self) -> str:
        """The first text for people in its annotations."""
        found = (d.text for annotation in self.all("annotation") for d in annotation.all("documentation"))
        return next(found, "")

    def said(self, name: str) -> Element | None:
        """What appinfo says under kod:name."""
        for annotation in self.all("annotation"):
            for appinfo in annotation.all("appinfo"):
                for element in appinfo.children:
                    if element.tag == f"{KOD} {name}":
                        return element
        return None


def read_xsd(source: bytes | str | Path, name: str = "the package") -> Package:
    """The package that an XSD describes, with its fingerprint. `name`: what faults in bytes are named by.

    By hand, plain XSD is enough: a property is required unless minOccurs="0", null is allowed where it is nillable, the
    key is the first property where appinfo does not say, an element of a complex type that may be repeated is a
    section, and a type of exactly `Filter` and `Records` is a record set.

    Raises ConfigError with file, line and a hint.
    """
    name, data = (name, source) if isinstance(source, bytes) else (str(source), file_bytes(Path(source)))
    package = _read(data, name)
    return Package(dict(package.types), package.fingerprint)


def file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="`kod schema generate` writes the package") from None


@lru_cache(maxsize=4)
def _read(data: bytes, name: str) -> Package:
    root = parse(data, name)
    reader = _Reader(name, root)
    package = reader.package()
    if not reader.faults:
        try:
            canonical = write_xsd(package)
        except ConfigError as error:
            reader.faults += [Fault(f"{name}: {f.where}", f.text, f.hint) for f in error.faults]
        else:
            if canonical != data:  # what we wrote ourselves is valid; checking it would take half a second
                reader.faults += _invalid(data, name)
    if reader.faults:
        raise ConfigError(f"{name}: the package cannot be read", faults=reader.faults)
    return fingerprinted(package)


def parse(data: bytes, name: str) -> Element:
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    scopes: list[dict[str, str]] = [{}]
    pending: dict[str, str] = {}
    top = Element("", {}, 0, {})
    stack = [top]

    def start_prefix(prefix: str | None, uri: str | None) -> None:
        pending[prefix or ""] = uri or ""

    def start(tag: str, attributes: dict[str, str]) -> None:
        scope = {**scopes[-1], **pending} if pending else scopes[-1]
        pending.clear()
        element = Element(tag, attributes, parser.CurrentLineNumber, scope, scopes[-1], parser.CurrentByteIndex)
        scopes.append(scope)
        stack[-1].children.append(element)
        stack.append(element)

    def end(_: str) -> None:
        scopes.pop()
        stack.pop().ends = parser.CurrentByteIndex

    def characters(text: str) -> None:
        if stack[-1].tag == _DOCUMENTATION:
            stack[-1].text += text

    def doctype(*_: object) -> None:
        fault = Fault(f"{name}:{parser.CurrentLineNumber}", "an XSD has no document type", "remove <!DOCTYPE …>")
        raise ConfigError(f"{name}: the package cannot be read", faults=[fault])

    parser.StartNamespaceDeclHandler = start_prefix
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        line = getattr(error, "lineno", 1)
        fault = Fault(f"{name}:{line}", f"not XML: {error}", "generate the package again with `kod schema generate`")
        raise ConfigError(f"{name}: the package cannot be read", faults=[fault]) from None
    root = top.children[0]
    if root.tag != f"{XS} schema":
        fault = Fault(f"{name}:{root.line}", "it is no XSD: the root is not xs:schema", f"xmlns:xs={XS!r}")
        raise ConfigError(f"{name}: the package cannot be read", faults=[fault])
    return root


def _invalid(data: bytes, name: str) -> list[Fault]:
    """What xmlschema has against the XSD."""
    import xmlschema  # imported late: it takes longer than everything else here

    try:
        schema = xmlschema.XMLSchema(data, validation="lax", allow="none")
    except Exception as error:
        return [Fault(name, f"it is no valid XSD: {_first_line(error)}")]
    return [Fault(name, f"it is no valid XSD: {_first_line(error)}") for error in schema.all_errors[:20]]


def _first_line(error: object) -> str:
    message = str(getattr(error, "message", "") or error)
    return " ".join(message.split())[:300]


@dataclass(frozen=True, slots=True)
class _Simple:
    """A simple type, as far as a property needs it."""

    xml: str
    length: int | None = None
    digits: tuple[int, int] | None = None
    values: tuple[str, ...] = ()
    zoned: bool = False
    bits: int | None = None


class _Reader:
    """One reading of an XSD: its named types, and what was not understood."""

    def __init__(self, name: str, root: Element) -> None:
        self.name = name
        self.root = root
        self.faults: list[Fault] = []
        self.simple = {t.get("name") or "": t for t in root.all("simpleType")}
        self.complex = {t.get("name") or "": t for t in root.all("complexType")}
        self._open: list[str] = []

    def fault(self, element: Element, text: str, hint: str = "") -> None:
        self.faults.append(Fault(f"{self.name}:{element.line}", text, hint))

    def package(self) -> Package:
        if self.root.get("targetNamespace") != NAMESPACE:
            self.fault(self.root, "it is not for КОД's namespace", f'targetNamespace="{NAMESPACE}"')
        for element in self.root.all("include", "import", "redefine", "override"):
            self.fault(element, f"xs:{element.tag.split()[1]} is not followed", "put the whole package into one file")
        helpers = self._helpers()
        types = {}
        for name, element in self.complex.items():
            if name not in helpers and element.get("abstract") != "true":
                types[name] = self._type(name, element)
        if not types and not self.faults:
            self.fault(self.root, "it has no complexType: nothing travels", "`kod schema generate` writes the package")
        return Package(types)

    def _helpers(self) -> set[str]:
        """Named complex types that only describe the rows of a section, or are the base of others."""
        found = set()
        stack = list(self.root.all("complexType"))
        while stack:
            element = stack.pop()
            stack += element.children
            for attribute in ("type", "base"):
                name = self._own_name(element, element.get(attribute))
                if name in self.complex:
                    found.add(name)
        return {n for n in found if self.complex[n].said("type") is None}

    def _own_name(self, element: Element, qname: str | None) -> str:
        if qname is None:
            return ""
        prefix, _, local = qname.rpartition(":")
        return local if element.prefixes.get(prefix, "") == NAMESPACE else ""

    def _type(self, name: str, element: Element) -> PackageType:
        info = element.said("type")
        elements = self._elements(element)
        kind: Literal["object", "record_set"] = "object"
        names = [e.get("name") for e in elements]
        stated = info.get("kind") if info else None
        if stated == "record_set" or (stated is None and sorted(map(str, names)) == [FILTER, RECORDS]):
            kind = "record_set"
        elif stated not in (None, "object"):
            self.fault(element, f"type {name}: {stated!r} is no kind", "object or record_set")
        if kind == "record_set":
            return self._record_set(name, element, elements)
        properties, sections = self._split(elements)
        key = self._key(info, properties, element, f"type {name}", default=True)
        return PackageType(name, "object", key, properties, sections, text=element.documentation())

    def _record_set(self, name: str, element: Element, elements: list[Element]) -> PackageType:
        by_name = {e.get("name"): e for e in elements}
        if not by_name.keys() >= {FILTER, RECORDS}:
            self.fault(element, f"type {name} is a record set without {FILTER} or {RECORDS}")
            return PackageType(name, "record_set", (), ())
        filtered, _ = self._split(self._elements(by_name[FILTER]))
        records, _ = self._split(self._elements(by_name[RECORDS]))
        info = element.said("type")
        key = self._key(info, filtered, element, f"type {name}", default=False) or tuple(p.name for p in filtered)
        ordered = tuple(sorted(filtered, key=lambda p: key.index(p.name) if p.name in key else len(key)))
        record_key = self._key(by_name[RECORDS].said("rows"), records, by_name[RECORDS], f"type {name}", default=False)
        return PackageType(name, "record_set", key, ordered + records, (), record_key, element.documentation())

    def _key(
        self, info: Element | None, properties: tuple[Property, ...], element: Element, what: str, *, default: bool
    ) -> tuple[str, ...]:
        names = [p.name for p in properties]
        if info is None:
            return tuple(names[:1]) if default else ()
        key = tuple((info.get("key") or "").split())
        for name in key:
            if name not in names:
                self.fault(element, f"{what}: the key names {name!r}, which is no property of it")
        return key

    def _elements(self, element: Element) -> list[Element]:
        """The elements of a complex type, or of an element with one: its base's first."""
        if element.tag == f"{XS} element":
            named = self._own_name(element, element.get("type"))
            inner = self.complex.get(named) or element.first("complexType")
            if inner is None:
                self.fault(element, f"{element.get('name')!r} is not of a complex type")
                return []
            element = inner
        found: list[Element] = []
        for child in element.children:
            kind = child.tag.removeprefix(f"{XS} ")
            if kind in ("sequence", "all"):
                found += self._particles(child)
            elif kind == "complexContent":
                found += self._extended(child)
            elif kind != "annotation":
                self.fault(child, f"xs:{kind} is not understood in a type", "elements in xs:sequence or xs:all")
        return found

    def _particles(self, group: Element) -> list[Element]:
        found: list[Element] = []
        for child in group.children:
            kind = child.tag.removeprefix(f"{XS} ")
            if kind == "element" and child.get("name"):
                found.append(child)
            elif kind == "sequence":
                found += self._particles(child)
            elif kind != "annotation":
                self.fault(child, f"xs:{kind} is not understood here", 'elements with name="…" in xs:sequence')
        return found

    def _extended(self, content: Element) -> list[Element]:
        extension = content.first("extension")
        base = self.complex.get(self._own_name(extension, extension.get("base"))) if extension else None
        if extension is None or base is None or id(base) in map(id, self._bases()):
            self.fault(content, "only xs:extension of a type of the package is understood")
            return []
        self._open.append(base.get("name") or "")
        found = self._elements(base) + self._elements(extension)
        self._open.pop()
        return found

    def _bases(self) -> list[Element]:
        return [self.complex[name] for name in self._open]

    def _split(self, elements: list[Element]) -> tuple[tuple[Property, ...], tuple[PackageSection, ...]]:
        properties, sections = [], []
        for element in elements:
            nested = self._own_name(element, element.get("type")) in self.complex or element.first("complexType")
            many = element.get("maxOccurs") not in (None, "0", "1")
            if nested:
                if not many:
                    self.fault(
                        element, f"{element.get('name')!r} is a structure", 'a section has maxOccurs="unbounded"'
                    )
                sections.append(self._section(element))
            elif many:
                self.fault(element, f"{element.get('name')!r} is a list of plain values", "give it a complexType")
            else:
                properties.append(self._property(element))
        return tuple(properties), tuple(sections)

    def _section(self, element: Element) -> PackageSection:
        name = element.get("name") or ""
        if name in self._open:
            self.fault(element, f"section {name!r} contains itself")
            return PackageSection(name, ())
        self._open.append(name) if name in self.complex else None
        properties, nested = self._split_rows(self._elements(element))
        if name in self.complex:
            self._open.pop()
        if nested:
            self.fault(element, f"section {name!r} has a section of its own", "sections are one level deep")
        key = self._key(element.said("rows"), properties, element, f"section {name}", default=False)
        return PackageSection(name, properties, key, element.documentation())

    def _split_rows(self, elements: list[Element]) -> tuple[tuple[Property, ...], bool]:
        plain = [
            e
            for e in elements
            if self._own_name(e, e.get("type")) not in self.complex and e.first("complexType") is None
        ]
        return self._split(plain)[0], len(plain) != len(elements)

    def _property(self, element: Element) -> Property:
        name = element.get("name") or ""
        simple = self._simple_of(element, f"property {name!r}")
        found = Property(
            name=name,
            xml=simple.xml,
            nullable=element.get("nillable") in ("true", "1"),
            optional=element.get("minOccurs") == "0",
            length=simple.length,
            digits=simple.digits,
            bits=simple.bits,
            values=simple.values,
            zoned=simple.zoned,
            composite=(ANY,) if simple.xml == ANY else (),
            text=element.documentation(),
        )
        info = element.said("property")
        return self._with_said(found, info, element) if info is not None else found

    def _with_said(self, prop: Property, info: Element, element: Element) -> Property:
        said = info.attributes
        xml = said.get("xml", prop.xml)
        if "xml" in said and (xml not in XML_TYPES or prop.xml == ANY):
            self.fault(element, f"property {prop.name!r}: {xml!r} is no form of values", ", ".join(XML_TYPES))
        try:
            length = int(said["length"]) if "length" in said else prop.length
            digits = tuple(map(int, said["digits"].split())) if "digits" in said else prop.digits
            bits = int(said["bits"]) if "bits" in said else prop.bits
            precision_and_scale = None if digits is None else (digits[0], digits[1])
        except (ValueError, IndexError):
            self.fault(element, f"property {prop.name!r}: its length, digits or bits are no numbers")
            return prop
        if "composite" in said and prop.xml != ANY:
            self.fault(element, f"property {prop.name!r}: values of several types", 'type="xs:anyType"')
        values = tuple(v.attributes.get("is", "") for v in info.children if v.tag == f"{KOD} value")
        return replace(
            prop,
            xml=xml,
            target=said.get("target"),
            length=length,
            digits=precision_and_scale,
            bits=bits,
            values=values or prop.values,
            zoned=prop.zoned or said.get("zoned") == "true",
            native=said.get("native", ""),
            generated=said.get("generated") == "true",
            composite=tuple(said.get("composite", "").split()) or prop.composite,
        )

    def _simple_of(self, element: Element, what: str) -> _Simple:
        inner = element.first("simpleType")
        if inner is not None:
            return self._simple_type(inner, what)
        qname = element.get("type") or element.get("base")
        if qname is None:
            self.fault(element, f"{what} has no type", 'e.g. type="xs:string"')
            return _Simple("string")
        prefix, _, local = qname.rpartition(":")
        if element.prefixes.get(prefix, "") == XS:
            if local in _BUILT_IN:
                return _Simple(_BUILT_IN[local], zoned=local == "dateTimeStamp", bits=_BITS.get(local))
            self.fault(element, f"{what}: values of {qname} are not understood", "a plain type, e.g. xs:decimal")
            return _Simple("string")
        named = self._own_name(element, qname)
        if named == REFERENCE:
            return _Simple("string")
        if named not in self.simple or named in self._open:
            self.fault(element, f"{what}: there is no type {qname!r}", self._near(named))
            return _Simple("string")
        self._open.append(named)
        found = self._simple_type(self.simple[named], what)
        self._open.pop()
        return found

    def _near(self, name: str) -> str:
        import difflib

        close = difflib.get_close_matches(name, [*self.simple, *_BUILT_IN], n=1)
        return f"did you mean {close[0]!r}?" if close else ""

    def _simple_type(self, element: Element, what: str) -> _Simple:
        restriction = element.first("restriction")
        if restriction is None:  # a list or a union: its text
            return _Simple("string")
        base = self._simple_of(restriction, what)
        facets = {f.tag.removeprefix(f"{XS} "): f.get("value") or "" for f in restriction.children}
        values = tuple(f.get("value") or "" for f in restriction.all("enumeration"))
        length = facets.get("maxLength", facets.get("length"))
        digits = base.digits
        if base.xml == "decimal" and "totalDigits" in facets:
            digits = self._digits(facets, base)
        return replace(
            base,
            length=int(length) if length is not None and length.isdecimal() else base.length,
            digits=digits,
            values=values or base.values,
            zoned=base.zoned or facets.get("explicitTimezone") == "required",
        )

    def _digits(self, facets: Mapping[str, str], base: _Simple) -> tuple[int, int] | None:
        """Precision and scale; unless both are bounded there is nothing to say."""
        total, fraction = facets["totalDigits"], facets.get("fractionDigits", "")
        return (int(total), int(fraction)) if total.isdecimal() and fraction.isdecimal() else base.digits
