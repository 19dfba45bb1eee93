"""An XSD that is there already, and what the database says now -> the XSD with what is new.

What people changed stays as they wrote it, byte for byte: texts, comments, types of their own, facets, names, what is
optional, properties for hooks. A part that is as KOD wrote it (its text says so, and `made` of each property) follows
the database. What is no longer in the database stays too, and is told. Merging the same once more changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from schemas.errors import ConfigError
from schemas.package import NAMESPACE, Package, PackageType, Property
from schemas.xsd import (
    FILTER,
    KOD,
    RECORDS,
    REFERENCE,
    REFERENCE_LINES,
    XS,
    Element,
    filter_and_records,
    made,
    parse,
    property_lines,
    read_xsd,
    rows_lines,
    type_lines,
    write_xsd,
)


@dataclass(frozen=True, slots=True)
class Merged:
    """The XSD, and what people should know of it: (type, property or None, what). `added`: how many types and
    properties are new."""

    written: bytes
    notes: tuple[tuple[str, str | None, str], ...]
    added: int = 0


def merge_xsd(there: bytes, generated: Package, name: str) -> Merged:
    """`there` with what `generated` has beyond it. Raises ConfigError where `there` cannot be read."""
    package = read_xsd(there, name)
    write_xsd(generated)  # names that XML does not allow are told before anything is put anywhere
    try:
        there.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: it is not in UTF-8", hint="save it as UTF-8, then generate again") from None
    merging = _Merging(there, parse(there, name), package)
    for of_type in generated.types.values():
        merging.type(of_type)
    for gone in package.types.keys() - generated.types.keys():
        if any(p.native for p in package.types[gone].properties):
            merging.notes.append((gone, None, "it takes no part any more, or has no table; it stays in the package"))
    return merging.merged()


@dataclass(frozen=True, slots=True)
class _Edit:
    begins: int
    ends: int
    text: str


@dataclass
class _Merging:
    """Edits of one text: each replaces a run of bytes; those that insert have an empty run."""

    data: bytes
    root: Element
    package: Package
    edits: list[_Edit] = field(default_factory=list)
    notes: list[tuple[str, str | None, str]] = field(default_factory=list)
    added: int = 0

    def __post_init__(self) -> None:
        self.types = {t.get("name") or "": t for t in self.root.all("complexType")}
        self._has_reference_type = any(t.get("name") == REFERENCE for t in self.root.all("simpleType"))
        self._rows_done: set[int] = set()

    # --- types

    def type(self, new: PackageType) -> None:
        there = self.package.types.get(new.name)
        if there is None:
            self._insert(self.root.ends, type_lines(new), self.root.prefixes, "")
            self._reference_type([*new.properties, *(p for s in new.sections for p in s.properties)])
            self.added += 1
            return
        element = self.types[new.name]
        as_written = self._raw(element) == _joined(type_lines(there), "  ")
        if as_written and (there.kind == new.kind or not there.sections):
            self._untouched(element, there, new)
        elif there.kind != new.kind or there.key != new.key:
            text = f"the database has it as {_shape(new)}, the package as {_shape(there)}"
            self.notes.append((new.name, None, text + ": left; take it out to have it written anew"))
        else:
            self._touched(element, there, new)

    def _untouched(self, element: Element, there: PackageType, new: PackageType) -> None:
        """As KOD wrote it: it is written anew, with what the database has no more."""
        own_sections = {s.name for s in new.sections}
        kept = [p for p in there.properties if p.name not in own_sections]
        self._turned(new.name, own_sections & {p.name for p in there.properties}, "a section")
        properties = self._properties(new.name, "", kept, new.properties, new.key)
        if new.kind == "record_set":  # the filter's are first
            properties = tuple(sorted(properties, key=lambda p: _place(p.name, new.key)))
        sections = []
        before = {s.name: s for s in there.sections}
        own_properties = {p.name for p in new.properties}
        self._turned(new.name, own_properties & before.keys(), "a property")
        for section in new.sections:
            old = before.pop(section.name, None)
            if old is None:
                self.added += len(section.properties)
                sections.append(section)
            else:
                own = self._properties(new.name, f"{section.name}.", old.properties, section.properties)
                sections.append(replace(section, properties=own, text=old.text or section.text))
        for section in before.values():
            if section.name not in own_properties:
                self._vanished(new.name, section.name, any(p.native for p in section.properties))
                sections.append(section)
        written = replace(new, properties=properties, sections=tuple(sections), text=there.text or new.text)
        if written != there:
            self._replace(element, _joined(type_lines(written), "  "))
            self._reference_type([*properties, *(p for s in sections for p in s.properties)])

    def _properties(
        self,
        type_name: str,
        prefix: str,
        there: Sequence[Property],
        new: Sequence[Property],
        key: Sequence[str] = (),
    ) -> tuple[Property, ...]:
        """In the database's order; what only the package has stays behind what it was behind."""
        by_name = {p.name: p for p in there}
        merged = []
        for prop in new:
            old = by_name.get(prop.name)
            self.added += old is None
            merged.append(_as_new(prop, key) if old is None else self._followed(old, prop))
        names = [p.name for p in merged]
        for place, prop in enumerate(there):
            if prop.name not in names:
                self._vanished(type_name, prefix + prop.name, bool(prop.native))
                before = next((p.name for p in reversed(there[:place]) if p.name in names), None)
                at = names.index(before) + 1 if before else 0
                merged.insert(at, prop)
                names.insert(at, prop.name)
        return tuple(merged)

    def _followed(self, old: Property, new: Property) -> Property:
        """In a type as KOD wrote it: a property without `native` is people's own all the same."""
        return replace(new, optional=old.optional, text=old.text or new.text) if old.native else old

    def _turned(self, type_name: str, names: Iterable[str], into: str) -> None:
        self.notes += [(type_name, name, f"in the database it is {into} now: written so") for name in names]

    def _vanished(self, type_name: str, name: str, generated: bool) -> None:
        if generated:
            self.notes.append((type_name, name, "the database has no column for it any more; it stays in the package"))

    # --- types that people changed: property by property

    def _touched(self, element: Element, there: PackageType, new: PackageType) -> None:
        if new.kind == "record_set":
            parts = dict(
                zip(
                    (FILTER, RECORDS), zip(filter_and_records(there), filter_and_records(new), strict=True), strict=True
                )
            )
            for part in self._elements(element):
                if part.get("name") in parts:
                    old, now = parts[part.get("name") or ""]
                    self._rows(part, new.name, "", old.properties, now.properties)
            return
        self._rows(element, new.name, "", there.properties, new.properties, new.key)
        inside = {e.get("name"): e for e in self._elements(element)}
        before = {s.name: s for s in there.sections}
        for section in new.sections:
            old_section = before.pop(section.name, None)
            if old_section is None and section.name in inside:
                text = "in the database it is a section now, in the package a property: left"
                self.notes.append((new.name, section.name, text + "; take it out to have it written anew"))
            elif old_section is None:
                self._append(element, rows_lines(section, ""))
                self._reference_type(section.properties)
                self.added += 1
            else:
                prefix = f"{section.name}."
                self._rows(inside[section.name], new.name, prefix, old_section.properties, section.properties)
        for section in before.values():
            self._vanished(new.name, section.name, any(p.native for p in section.properties))

    def _rows(
        self,
        holder: Element,
        type_name: str,
        prefix: str,
        there: Sequence[Property],
        new: Sequence[Property],
        key: Sequence[str] = (),
    ) -> None:
        groups = {group.begins for group in self._groups(holder)}
        if groups and groups <= self._rows_done:  # a type of people's own that several sections are of
            return
        self._rows_done |= groups
        elements = {e.get("name") or "": e for e in self._elements(holder)}
        by_name = {p.name: p for p in there}
        last: Element | None = None
        for prop in new:
            element = elements.get(prop.name)
            if element is None:
                self._place_new(holder, last, _as_new(prop, key))
                self.added += 1
            elif prop.name in by_name:
                self._changed(element, type_name, prefix, by_name[prop.name], prop)
                last = element
            else:
                text = "in the database it is a property now, in the package a section: left"
                self.notes.append((type_name, prefix + prop.name, text + "; take it out to have it written anew"))
        for name in by_name.keys() - {p.name for p in new}:
            self._vanished(type_name, prefix + name, bool(by_name[name].native))

    def _changed(self, element: Element, type_name: str, prefix: str, old: Property, new: Property) -> None:
        said = element.said("property")
        was = said.get("made") if said is not None else None
        if was is None or was == made(new):  # people's own, or the database says what it said
            return
        if was == made(old) and b"<!--" not in self._span(element) and self._plain(element):
            written = replace(new, optional=old.optional, text=old.text or new.text)
            self._replace(element, _joined(property_lines(written, ""), ""))
            self._reference_type([new])
            return
        text = f"the database has changed it ({new.native}{'' if new.nullable else ', not null'}), and so have people"
        self.notes.append((type_name, prefix + new.name, text + ": left; take it out to have it written anew"))

    def _plain(self, element: Element) -> bool:
        """It has nothing that `property_lines` would not write."""
        annotations = element.all("annotation")
        inside = [child for annotation in annotations for child in annotation.children]
        named = element.get("type") or ""
        known = {"name", "type", "nillable", "minOccurs"}
        own_type = element.prefixes.get(named.rpartition(":")[0], "") == NAMESPACE and not named.endswith(REFERENCE)
        return len(annotations) <= 1 and len(inside) <= 2 and element.attributes.keys() <= known and not own_type

    def _elements(self, holder: Element) -> list[Element]:
        """The elements that are written in a type itself, or in the complex type of an element."""
        return [e for group in self._groups(holder) for e in _particles(group)]

    def _groups(self, holder: Element) -> list[Element]:
        if holder.tag == f"{XS} element":
            _, _, local = (holder.get("type") or "").rpartition(":")
            inner = self.types.get(local) or holder.first("complexType")
            return self._groups(inner) if inner is not None else []
        found = holder.all("sequence", "all")
        for content in holder.all("complexContent"):
            for extension in content.all("extension"):
                _, _, base = (extension.get("base") or "").rpartition(":")
                found = [*(self._groups(self.types[base]) if base in self.types else []), *self._groups(extension)]
        return found

    # --- text

    def _place_new(self, holder: Element, last: Element | None, prop: Property) -> None:
        lines = list(property_lines(prop, ""))
        if last is None:
            self._append(holder, lines)
        else:
            indent = self._indent(last.begins)
            self._insert(self._end(last), lines, last.outside, indent, behind=True)
        self._reference_type([prop])

    def _append(self, holder: Element, lines: Iterable[str]) -> None:
        """At the end of the last group of a type."""
        groups = self._groups(holder)
        if not groups:
            name = holder.get("name") or ""
            text = "it has no xs:sequence to put what is new into"
            self.notes.append((name, None, text + ": left; take it out to have it written anew"))
            return
        group = groups[-1]
        if self._tag(group.begins)[0].endswith(b"/>"):  # <xs:sequence/>
            name, indent = self._name(group), self._indent(group.begins)
            inside = "".join(f"{indent}  {line}\n" for line in lines)
            self._replace(group, f"<{name}>\n{inside}{indent}</{name}>")
        else:
            self._insert(group.ends, lines, group.prefixes, self._indent(group.ends) + "  ")

    def _insert(
        self, at: int, lines: Iterable[str], scope: Mapping[str, str], indent: str, *, behind: bool = False
    ) -> None:
        """Whole lines before the line that `at` is in, or `behind` it. `scope`: the prefixes that are known there."""
        text = _bound("\n".join(f"{indent}{line}" for line in lines), scope)
        if behind:
            self.edits.append(_Edit(at, at, f"\n{text}"))
            return
        begins = self.data.rfind(b"\n", 0, at) + 1
        if self.data[begins:at].strip():  # something else is on that line
            self.edits.append(_Edit(at, at, f"\n{text}\n"))
        else:
            self.edits.append(_Edit(begins, begins, f"{text}\n"))

    def _replace(self, element: Element, text: str) -> None:
        indent = self._indent(element.begins)
        lines = text.split("\n")
        text = "\n".join([lines[0], *(f"{indent}{line}" for line in lines[1:])])
        self.edits.append(_Edit(element.begins, self._end(element), _bound(text, element.outside)))

    def _raw(self, element: Element) -> str:
        """As it is written, without its own indentation."""
        indent = self._indent(element.begins)
        lines = self._span(element).decode().replace("\r\n", "\n").split("\n")
        return "\n".join([lines[0], *(line.removeprefix(indent) for line in lines[1:])])

    def _span(self, element: Element) -> bytes:
        return self.data[element.begins : self._end(element)]

    def _end(self, element: Element) -> int:
        """Behind its last tag."""
        found = self._tag(element.begins)
        return found.end() if found[0].endswith(b"/>") else self._tag(element.ends).end()

    def _tag(self, at: int) -> re.Match[bytes]:
        found = _TAG.match(self.data, at)
        assert found is not None
        return found

    def _name(self, element: Element) -> str:
        found = _TAG_NAME.match(self.data, element.begins)
        assert found is not None
        return found[1].decode()

    def _indent(self, at: int) -> str:
        line = self.data[self.data.rfind(b"\n", 0, at) + 1 : at]
        return line[: len(line) - len(line.lstrip())].decode()

    def _reference_type(self, properties: Iterable[Property]) -> None:
        """References need the type that they are of."""
        if not self._has_reference_type and any(p.target is not None for p in properties):
            self._insert(self.root.ends, REFERENCE_LINES, self.root.prefixes, "")
            self._has_reference_type = True

    def merged(self) -> Merged:
        """The text with its edits; of several at one place in the order in which they were made."""
        data, parts, at = self.data, [], 0
        line_end = b"\r\n" if b"\r\n" in data else b"\n"
        for edit in sorted(self.edits, key=lambda e: e.begins):
            parts += [data[at : edit.begins], edit.text.encode().replace(b"\n", line_end)]
            at = edit.ends
        return Merged(b"".join([*parts, data[at:]]), tuple(sorted(self.notes, key=_noted)), self.added)


_TAG = re.compile(rb"<(?:[^\"'>]|\"[^\"]*\"|'[^']*')*>")
_TAG_NAME = re.compile(rb"<([^\s/>]+)")


def _noted(note: tuple[str, str | None, str]) -> tuple[str, str, str]:
    return note[0], note[1] or "", note[2]


def _joined(lines: Iterable[str], indent: str) -> str:
    return "\n".join(line.removeprefix(indent) for line in lines)


def _particles(group: Element) -> Iterator[Element]:
    for child in group.children:
        if child.tag == f"{XS} element":
            yield child
        elif child.tag == f"{XS} sequence":
            yield from _particles(child)


def _as_new(prop: Property, key: Sequence[str]) -> Property:
    """In a type that has travelled without it: messages of nodes that do not know it yet come without it."""
    return prop if prop.name in key else replace(prop, optional=True)


def _place(name: str, key: Sequence[str]) -> int:
    return key.index(name) if name in key else len(key)


def _shape(of_type: PackageType) -> str:
    return f"{'a record set' if of_type.kind == 'record_set' else 'an object'} of ({', '.join(of_type.key)})"


def _bound(text: str, scope: Mapping[str, str]) -> str:
    """`text` with those of its prefixes declared that mean something else, or nothing, where it is put."""
    wanted = {"xs": XS, "kod": KOD, "": NAMESPACE}
    missing = {prefix: uri for prefix, uri in wanted.items() if scope.get(prefix, "") != uri}
    used = {"xs": "<xs:", "kod": "<kod:", "": f'"{REFERENCE}"'}
    declared = "".join(
        f' xmlns{":" if prefix else ""}{prefix}="{uri}"' for prefix, uri in missing.items() if used[prefix] in text
    )
    if not declared:
        return text
    return _FIRST_NAME.sub(lambda found: found[0] + declared, text, count=1)


_FIRST_NAME = re.compile(r"<[^\s/>]+")
