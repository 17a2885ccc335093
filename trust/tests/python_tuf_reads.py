#!/usr/bin/env python3
"""python-tuf follows both repositories, first as a hub puts them on a stick, then as it publishes them: an independent
reader agrees with us.

Needs PyPI `tuf` (7.x). Usage: python_tuf_reads.py CAIRN_TUF_FIXTURE_BINARY
"""

import functools
import hashlib
import http.server
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

from tuf.ngclient import Updater


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Bundle(Quiet):
    """Serves a node's director folder, and the shared roots from the folder above it, as the hub does; on a stick they
    lie in it."""

    def translate_path(self, path):
        local = pathlib.Path(super().translate_path(path))
        if local.name.endswith(".root.json") and local.parent.name.startswith("n-") and not local.exists():
            local = local.parent.parent / local.name
        return str(local)


def follow(base, folder, root, names):
    updater = Updater(
        metadata_dir=str(folder / "metadata"),
        metadata_base_url=base,
        target_dir=str(folder / "targets"),
        target_base_url=base + "targets/",
        bootstrap=root,
    )
    updater.refresh()
    found = {name: updater.get_targetinfo(name) for name in names}
    missing = [name for name, info in found.items() if info is None]
    assert not missing, f"python-tuf does not find {missing}"
    return updater, found


def trusted_version(folder):
    return json.loads((folder / "metadata/timestamp.json").read_text())["signed"]["version"]


def main():
    versions = []
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="cairn-python-tuf-"))
    try:
        subprocess.run([sys.argv[1], str(scratch / "hub")], check=True)
        fixture = json.loads((scratch / "hub/fixture.json").read_text())
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Bundle, directory=str(scratch / "hub"))
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        for part in ("artifacts", "director"):
            for sub in ("metadata", "targets"):
                (scratch / part / sub).mkdir(parents=True)

        # The same client, with what it trusts by then: what the hub serves is newer than what it put on the stick.
        for base in (url + "stick/tuf/", url + "tuf/"):
            root = (scratch / "hub/tuf/artifacts/1.root.json").read_bytes()
            _, found = follow(base + "artifacts/", scratch / "artifacts", root, fixture["artifacts"])
            for name, info in found.items():
                assert "sha256." + info.hashes["sha256"] == name, f"{name} has another hash"

            root = (scratch / "hub/tuf/director/1.root.json").read_bytes()
            base = f"{base}director/{fixture['node']}/"
            updater, found = follow(base, scratch / "director", root, ["desired-state.json"])
            info = found["desired-state.json"]
            facts = {name: fixture[name] for name in ("node", "generation", "acknowledged")}
            assert info.custom == facts, info.custom
            content = pathlib.Path(updater.download_target(info)).read_bytes()
            assert hashlib.sha256(content).hexdigest() == info.hashes["sha256"]
            assert json.loads(content)["generation"] == fixture["generation"]
            versions.append([trusted_version(scratch / part) for part in ("artifacts", "director")])
        stick, hub = versions
        assert all(older < newer for older, newer in zip(stick, hub)), versions
        server.shutdown()
        print("python-tuf follows both repositories, by stick and from the hub")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
