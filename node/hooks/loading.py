"""The hooks' file: loaded as the daemon loads it, and all that is wrong with it, with the line."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from node.hooks import NAMES, Hooks, Source
from schemas.errors import ConfigError, Fault

MODULE = "kod_hooks"
"""What the file is called while it is imported."""


@dataclass(frozen=True)
class Loaded:
    """One object for each type that has hooks, and what they were loaded from."""

    path: Path | None = None
    by_type: Mapping[str, Hooks] = field(default_factory=dict)
    fingerprint: str = ""

    def overriding(self, name: str) -> frozenset[str]:
        """Types whose hooks override it."""
        return frozenset(type_name for type_name, hooks in self.by_type.items() if overrides(hooks, name))

    def where(self, type_name: str, name: str = "") -> str:
        """File and line of a hook, or of its class."""
        found = getattr(type(self.by_type[type_name]), name, None) if name else type(self.by_type[type_name])
        return place(self.path, _line_of(found))


def overrides(hooks: Hooks, name: str) -> bool:
    return getattr(type(hooks), name) is not getattr(Hooks, name)


def place(path: Path | None, line: int | None) -> str:
    name = path.name if path is not None else "hooks"
    return name if line is None else f"{name}, line {line}"


NOTHING = Loaded()


def load(path: Path | None, types: Collection[str]) -> Loaded:
    """The hooks of a file; `types` are those that there are. A file that has not changed is not run again. Raises
    ConfigError with every fault at once."""
    if path is None:
        return NOTHING
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"hooks {path.name} cannot be read: {error.strerror}", hint="is `hooks` right?") from None
    return _load(path, frozenset(types), (found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=8)
def _load(path: Path, types: frozenset[str], _: tuple[int, int]) -> Loaded:
    loaded, faults = examine(path, types)
    if faults:
        raise ConfigError(f"{len(faults)} fault(s) in the hooks {path.name}", faults=faults, hint=faults[0].hint)
    return loaded


def examine(path: Path | None, types: Collection[str]) -> tuple[Loaded, list[Fault]]:
    """As far as the file can be used, and what is wrong with it."""
    if path is None:
        return NOTHING, []
    try:
        source = path.read_bytes()
        module = _imported(path)
    except (Exception, SystemExit) as error:
        return NOTHING, [_not_loaded(path, error)]
    faults: list[Fault] = []
    by_type: dict[str, Hooks] = {}
    for cls in _classes(module):
        found = list(_faults_of(cls, path, types, by_type))
        faults += found
        if not found:
            by_type[cls.type] = cls()
    return Loaded(path, by_type, hashlib.sha256(source).hexdigest()[:32]), faults


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # dataclasses and pickles look their module up
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def _not_loaded(path: Path, error: BaseException) -> Fault:
    line = error.lineno if isinstance(error, SyntaxError) else line_within(path, error)
    what = error.msg if isinstance(error, SyntaxError) else str(error)
    text = f"hooks cannot be loaded: {type(error).__name__}: {what}"
    return Fault(place(path, line), text, f"python {path} shows where")


def line_within(path: Path | None, error: BaseException) -> int | None:
    """The last line of the file that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if path is not None and frame.filename == str(path)]
    return lines[-1] if lines else None


def _classes(module: ModuleType) -> Iterator[type[Hooks]]:
    """Those of the file itself that are for a type, in its order; what only looks like one too."""
    for found in list(vars(module).values()):
        own = isinstance(found, type) and issubclass(found, Hooks) and found.__module__ == MODULE
        if own and (found.type or not _is_base(found, module)):
            yield found


def _is_base(cls: type[Hooks], module: ModuleType) -> bool:
    """Others of the file inherit from it."""
    others = (c for c in vars(module).values() if isinstance(c, type) and c is not cls)
    return any(issubclass(other, cls) for other in others)


def _faults_of(cls: type[Hooks], path: Path, types: Collection[str], known: Mapping[str, Hooks]) -> Iterator[Fault]:
    where = place(path, _line_of(cls))
    if not cls.type:
        yield Fault(where, f"{cls.__name__} is for no type", f'class {cls.__name__}(Hooks, type="Catalog.Product")')
    elif cls.type not in types:
        yield Fault(
            where, f"{cls.__name__} is for {cls.type!r}, which is no type of nodes.yaml", _meant(cls.type, types)
        )
    elif cls.type in known:
        other = type(known[cls.type]).__name__
        yield Fault(where, f"{cls.__name__} and {other} are both for {cls.type}", "one class for each type")
    for base in cls.__mro__:
        if base is Hooks or base.__module__ != MODULE:
            continue
        for name, member in vars(base).items():
            yield from _faults_of_member(base, name, member, path)
    if inspect.signature(cls).parameters:
        yield Fault(where, f"{cls.__name__} cannot be made without arguments", "take its __init__ out")


def _faults_of_member(cls: type, name: str, member: Any, path: Path) -> Iterator[Fault]:
    function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
    where = place(path, _line_of(function) or _line_of(cls))
    if name == "sources":
        if not all(isinstance(one, Source) and one.key for one in member):
            hint = 'sources = [Source("product_texts", product_id="product_id")]'
            yield Fault(where, f"{cls.__name__}.sources is no list of tables, each with the key's columns", hint)
        return
    if name.startswith("_") or not callable(function):
        return
    if name not in NAMES:
        hint = _meant(name, NAMES) or "helpers begin with an underscore"
        yield Fault(where, f"{cls.__name__}.{name} is no hook", hint)
    elif isinstance(member, staticmethod | classmethod) or not inspect.isfunction(member):
        yield Fault(where, f"{cls.__name__}.{name} is no plain method", _expected(name))
    elif inspect.iscoroutinefunction(member) or (name != "addressees" and inspect.isgeneratorfunction(member)):
        yield Fault(where, f"{cls.__name__}.{name} has to be a plain function", _expected(name))
    elif not _fits(member, getattr(Hooks, name)):
        yield Fault(where, f"{cls.__name__}.{name} does not take what it is called with", _expected(name))


def _fits(member: Callable[..., Any], base: Callable[..., Any]) -> bool:
    given = [None] * len(inspect.signature(base).parameters)
    try:
        inspect.signature(member).bind(*given)
    except TypeError:
        return False
    return True


def _expected(name: str) -> str:
    return f"def {name}({', '.join(inspect.signature(getattr(Hooks, name)).parameters)})"


def _meant(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {close[0]!r}?" if close else ""


def _line_of(found: Any) -> int | None:
    code = getattr(found, "__code__", None)
    if code is not None:
        return int(code.co_firstlineno)
    if isinstance(found, type):
        try:
            return inspect.getsourcelines(found)[1]
        except (OSError, TypeError):
            return None
    return None
