# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bill of materials names what is there, and is CycloneDX by the published schema."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.as215932.engineering_loop.plugins.module_utils.base.errors import LoopError
from ansible_collections.as215932.engineering_loop.plugins.module_utils.host.settings import Settings
from ansible_collections.as215932.engineering_loop.plugins.module_utils.release import agents, sbom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

SHA = "58735fa051d24290f128109b4267e136316cbc86"
AGENT = {
    "package": "@played/agent",
    "version": "1.2.3",
    "integrity": f"sha512-{base64.b64encode(bytes(64)).decode()}",
    "program": "pi",
}


def installed(where: Path, name: str, version: str, **more: str) -> None:
    """A Python package as an installer leaves it."""
    about = where / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    head = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{more.get('license', '')}"
    (about / "METADATA").write_text(head, encoding="utf-8")
    if "url" in more:
        (about / "direct_url.json").write_text(json.dumps({"url": more["url"], "dir_info": {"editable": True}}))


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    """A host with an engine, uv and an agent from npm."""
    release = tmp_path / "releases" / SHA
    site = release / ".venv/lib/python3.13/site-packages"
    installed(site, "hyrule-engineering-loop", "0.4.0", url=f"file://{release}")
    installed(site, "Typing_Extensions", "4.15.0", license="License-Expression: PSF-2.0\n")
    installed(tmp_path / "uv/lib/python3.13/site-packages", "uv", "0.13.9", license="License: MIT OR Apache-2.0\n")
    record = {
        "sha": SHA,
        "source": "https://somebody:secret@forge.example/o/engine.git",
        "built_at": "2026-01-31T12:00:00Z",
        "lock_digest": "a" * 64,
        "files_digest": "b" * 64,
    }
    (release / ".release.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "current").symlink_to(f"releases/{SHA}")
    place = Path(agents.place(str(tmp_path), {**AGENT, "lock": ""}))
    packages: dict[str, Any] = {
        "": {"dependencies": {"@played/agent": "1.2.3"}},
        "node_modules/@played/agent": {"version": "1.2.3", "license": "MIT", "integrity": AGENT["integrity"]},
        "node_modules/@played/agent/node_modules/left": {"version": "2.0.0", "integrity": "sha512-not base64"},
        "node_modules/for-another-system": {"version": "1.0.0", "optional": True},
    }
    for name in list(packages)[1:3]:
        (place / name).mkdir(parents=True)
    (place / "package-lock.json").write_text(json.dumps({"packages": packages}), encoding="utf-8")
    return Settings({"install_dir": str(tmp_path), "agent": {**AGENT, "lock": ""}})


def purls(bill: dict[str, Any]) -> list[str]:
    return [one["purl"] for one in bill["components"]]


def test_it_is_cyclonedx_by_the_published_schema(config: Settings) -> None:
    told = sbom.text(sbom.of_host(config, ["git"], "0.2.0"))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(told) is None


def test_each_component_is_one_that_is_there(config: Settings) -> None:
    bill = sbom.of_host(config, [], "0.2.0")
    assert purls(bill) == [
        "pkg:npm/%40played/agent@1.2.3",
        "pkg:npm/left@2.0.0",
        "pkg:pypi/typing-extensions@4.15.0",
        "pkg:pypi/uv@0.13.9",
    ]
    agent, left, typing_extensions, uv = bill["components"]
    assert agent["hashes"] == [{"alg": "SHA-512", "content": "00" * 64}]
    assert "hashes" not in left
    assert typing_extensions["licenses"] == [{"license": {"name": "PSF-2.0"}}]
    assert uv["licenses"] == [{"license": {"name": "MIT OR Apache-2.0"}}]


def test_what_was_built_from_a_commit_is_named_by_it(config: Settings) -> None:
    release = Path(config.install_dir) / "releases" / SHA
    installed(release / ".venv/lib/python3.13/site-packages", "agent-core", "0.3.0")
    record = json.loads((release / ".release.json").read_text())
    url = "https://forge.example/o/agent-core"
    record["git_dependencies"] = [
        {"name": "agent-core", "url": url, "commit": SHA, "subdirectory": "py", "wheel_sha256": "c" * 64}
    ]
    (release / ".release.json").write_text(json.dumps(record), encoding="utf-8")
    bill = sbom.of_host(config, [], "0.2.0")
    (core,) = (one for one in bill["components"] if one["name"] == "agent-core")
    address = f"git%2Bhttps%3A%2F%2Fforge.example%2Fo%2Fagent-core%40{SHA}"
    assert core["purl"] == f"pkg:pypi/agent-core@0.3.0?vcs_url={address}#py"
    assert core["externalReferences"] == [{"type": "vcs", "url": url, "comment": SHA}]
    assert core["hashes"] == [{"alg": "SHA-256", "content": "c" * 64}]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom.text(bill)) is None


def test_the_engine_is_its_commit_and_no_password_of_its_address_is_told(config: Settings) -> None:
    bill = sbom.of_host(config, [], "0.2.0")
    engine = bill["metadata"]["component"]
    assert (engine["name"], engine["version"]) == ("hyrule-engineering-loop", SHA)
    assert {"name": "as215932:engineering_loop:project_version", "value": "0.4.0"} in engine["properties"]
    assert "secret" not in json.dumps(bill)
    assert "forge.example/o/engine.git" in engine["externalReferences"][0]["url"]


def test_debian_s_packages_come_with_what_they_depend_on(config: Settings) -> None:
    found = {one["name"]: one for one in sbom.of_host(config, ["git", "nothing-of-this-name"], "0.2.0")["components"]}
    said = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Version}", "git"], capture_output=True, text=True, check=True
    )
    assert found["git"]["version"] == said.stdout
    assert {"git", "libc6", "zlib1g"} <= found.keys()  # libc6 is no dependency of git alone
    assert "nothing-of-this-name" not in found


def test_the_same_host_gives_the_same_bytes_and_another_one_another_number(config: Settings) -> None:
    first, again = (sbom.text(sbom.of_host(config, ["git"], "0.2.0")) for _time in range(2))
    assert first == again
    assert sbom.of_host(config, [], "0.2.0")["serialNumber"] != json.loads(first)["serialNumber"]


def test_an_agent_that_is_there_already_has_no_packages_of_npm(config: Settings) -> None:
    own = Settings({**config, "agent": {"path": sys.executable, "program": "pi"}})
    assert purls(sbom.of_host(own, [], "0.2.0")) == ["pkg:pypi/typing-extensions@4.15.0", "pkg:pypi/uv@0.13.9"]


def test_where_nothing_is_installed_it_says_what_to_type(config: Settings, tmp_path: Path) -> None:
    (tmp_path / "current").unlink()
    with pytest.raises(LoopError, match=r"no engine is installed below .*: run ansible-playbook .*apply"):
        sbom.of_host(config, [], "0.2.0")


def test_a_lockfile_that_is_none_is_told(config: Settings, tmp_path: Path) -> None:
    (lock,) = tmp_path.glob("agents/*/package-lock.json")
    lock.write_text("{}", encoding="utf-8")
    with pytest.raises(LoopError, match="cannot be read: run ansible-playbook"):
        sbom.of_host(config, [], "0.2.0")
