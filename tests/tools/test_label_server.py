# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""What `roi-fusion label` does before the server starts; the server itself is in test_label_app.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conftest import BUNDLE, ROOT
from roi_fusion.errors import InputError
from roi_fusion_tools import label_server


def test_the_servers_copy_keeps_its_weights_and_is_never_the_bundle_itself(tmp_path: Path) -> None:
    bundle = label_server.prepare(tmp_path)
    assert (bundle / "configs" / "train.json").read_bytes() == (BUNDLE / "configs" / "train.json").read_bytes()
    assert {p.name for p in (tmp_path / "app").iterdir()} == {p.name for p in label_server.APP.glob("*.py")}
    (bundle / "models" / "model.pt").write_bytes(b"trained here")
    label_server.prepare(tmp_path)
    assert (bundle / "models" / "model.pt").read_bytes() == b"trained here"
    before = sorted(BUNDLE.rglob("*"))
    with pytest.raises(InputError, match="work_dir: expected a new folder or one of an earlier server, got one with another"):
        label_server.prepare(ROOT)
    assert sorted(BUNDLE.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "hosts", "warned"),
    [({}, "127.0.0.1", False), ({"host": "0.0.0.0"}, "", True)]
    + [({"host": "0.0.0.0", "allowed_hosts": "a.example,10.0.0.2", "proxy": True}, "a.example,10.0.0.2", False)],
)
def test_what_may_ask_goes_to_the_server(
    arguments: dict,
    hosts: str,
    warned: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(label_server.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(label_server.os, "execv", lambda _, command: started.append(command))
    (tmp_path / "studies").mkdir()
    label_server.serve(str(tmp_path / "studies"), str(tmp_path / "work"), **arguments)
    (command,) = started
    conf = {command[i + 1]: command[i + 2] for i, word in enumerate(command) if word == "--conf"}
    assert (conf["allowed_hosts"], conf["max_upload_mb"]) == (hosts, "1024")
    assert conf["proxy"] == str("proxy" in arguments).lower()
    assert ("no other machine is let in without --allowed_hosts" in capsys.readouterr().out) == warned
    sys.path.insert(0, str(label_server.APP))
    from request_guard import GuardOptions

    assert GuardOptions.from_conf(conf).hosts == tuple(h for h in hosts.split(",") if h)
