"""What is kept of a package between starts says what reading its file would say, or is not used."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from node import packages
from schemas.errors import ConfigError
from schemas.network import Network
from schemas.package import Package
from schemas.xsd import read_xsd, write_xsd
from tests.flow.test_xsd import BY_HAND
from tests.flow.test_xsd import packages as any_packages


@pytest.fixture
def network(tmp_path: Path) -> Network:
    """Its package was written by hand: xmlschema has to look at it."""
    (tmp_path / "p.xsd").write_text(BY_HAND, encoding="utf-8")
    state = tmp_path / "state"
    state.mkdir()
    return Network("trade", "folder:./x", {}, tmp_path / "nodes.yaml", tmp_path / "p.xsd", state=state)


def _read_anew(network: Network) -> tuple[Package, bool]:
    """As a new process reads it, and whether xmlschema was imported for it."""
    script = f"""
import sys
from pathlib import Path
from node.packages import package_of
from schemas.network import Network
path, state = Path({str(network.package)!r}), Path({str(network.state)!r})
package = package_of(Network("trade", "", {{}}, Path("n"), path, state=state))
print(package.fingerprint, "xmlschema" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    fingerprint, imported = done.stdout.split()
    package = packages.package_of(network)
    assert package is not None
    assert fingerprint == package.fingerprint
    return package, imported == "True"


def test_a_package_that_people_wrote_is_validated_once(network: Network) -> None:
    """Validating a large one takes longer than all else at a start; one that has changed is validated again."""
    assert network.package is not None
    package, validated = _read_anew(network)
    assert (package, validated) == (read_xsd(BY_HAND.encode()), True)
    assert _read_anew(network) == (package, False)
    network.package.write_text(BY_HAND.replace('"15"', '"16"'), encoding="utf-8")
    changed, validated = _read_anew(network)
    assert validated
    assert changed == read_xsd(BY_HAND.replace('"15"', '"16"').encode())
    assert changed.fingerprint != package.fingerprint


@pytest.mark.parametrize("broken", [b"", b"{}", b"[1]", b'{"of": 1', b"\xff"])
def test_what_is_kept_and_is_not_ours_is_not_used(network: Network, broken: bytes) -> None:
    """A file that is half there, or another program's, must not become a package."""
    (network.state / "trade-package.json").write_bytes(broken)
    assert _read_anew(network) == (read_xsd(BY_HAND.encode()), True)
    assert _read_anew(network)[1] is False, "it was written anew"


def test_a_faulty_package_is_faulty_however_often_it_is_read(network: Network) -> None:
    """Or a fault would be told once, and the package be taken for a good one from then on."""
    assert network.package is not None
    network.package.write_text(BY_HAND.replace("t:Money", "t:Mony"), encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ConfigError):
            packages.package_of(network)


def test_without_a_folder_of_the_daemons_nothing_is_kept(network: Network) -> None:
    """A command of another user's must not make the folder that the daemon needs."""
    elsewhere = replace(network, state=network.state / "not there")
    assert packages.package_of(elsewhere) == read_xsd(BY_HAND.encode())
    assert not elsewhere.state.exists()


@given(any_packages)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_kept_comes_back_as_it_was(network: Network, package: Package) -> None:
    """Or a warm start would mean something else by the package than a cold one."""
    assert network.package is not None
    written = write_xsd(package)
    network.package.write_bytes(written)
    packages.keep_package(network)
    packages._package.cache_clear()
    assert packages._kept(written, network.state / "trade-package.json") == read_xsd(written)
