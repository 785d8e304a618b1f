"""Assets are known by their checksum, checked before they are put in place, and fetched only when they are missing."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from kedro.config import OmegaConfigLoader

from skdcgn_pipeline.artifacts.store import sha256_of_file
from skdcgn_pipeline.images import assets as module
from skdcgn_pipeline.images import download as download_module
from skdcgn_pipeline.images.assets import (
    BY_HAND,
    DOWNLOADED,
    THERE,
    main,
    names_below,
    published_teacher_name,
    read_table,
    refuse_missing,
    require_assets,
    variant_of_published_teacher,
)
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.settings import CONFIG_LOADER_ARGS

VARIANTS = ("colored", "double_colored", "wildlife")
CONTENT = bytes(range(256)) * 2048  # half a MiB
OTHER = CONTENT[::-1]
HALF = len(CONTENT) // 2
NAME = "some/folder/weights.bin"


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- the table ---


def test_every_entry_says_where_it_is_from_and_what_it_contains():
    for asset in read_table().values():
        assert asset.licence
        assert asset.group
        assert asset.unpack in (None, "gzip")
        assert (asset.url is None) != (asset.by_hand is None), asset.name
        assert asset.url or "{folder}" in asset.by_hand, asset.name
        if asset.url:
            assert asset.url.startswith(("https://", "http://"))
            assert re.fullmatch("[0-9a-f]{64}", asset.sha256)
            assert asset.size > 0
        assert not {"", ".", ".."} & {*asset.name.split("/")}


def test_every_entry_in_a_group_has_its_own_digest():
    digests = [asset.sha256 for asset in read_table().values() if asset.sha256]
    assert len(set(digests)) == len(digests) > 30


def test_the_assets_at_hand_have_the_recorded_checksums_and_sizes(assets):
    here = [asset for asset in read_table().values() if (assets / asset.name).is_file()]
    assert len(here) >= 35
    for asset in here:
        assert sha256_of_file(assets / asset.name) == asset.sha256
        assert (assets / asset.name).stat().st_size == asset.size


def test_the_list_of_checksums_beside_the_assets_is_the_same(assets):
    listed = dict(re.findall(r"^ *([0-9a-f]{64})  (\S+)$", (assets / "README.md").read_text(), re.MULTILINE))
    assert len(listed) >= 35
    assert {name: asset.sha256 for name, asset in read_table().items() if name in listed.values()} == {
        name: digest for digest, name in listed.items()
    }


def test_the_groups_that_the_environments_ask_for_are_in_the_table(project):
    asked = set()
    for environment, source in (("imagenet", None), ("mnist", "mnist"), ("mnist", "fashion_mnist")):
        params = {} if source is None else {"images": {"source": source}}
        loader = OmegaConfigLoader(
            str(project / "conf"), env=environment, runtime_params=params, **(CONFIG_LOADER_ARGS | {"base_env": "base"})
        )
        asked |= set(loader["parameters"]["fetch"]["groups"])
    assert asked == {asset.group for asset in read_table().values()}


def test_every_class_has_one_texture_of_each_part():
    for part in ("object", "background"):
        classes = [Path(name).name[0] for name in names_below(f"textures/{part}")]
        assert classes == list("0123456789")


def test_the_variant_of_a_published_teacher_is_known_by_its_content(assets):
    for variant in VARIANTS:
        digest = sha256_of_file(assets / published_teacher_name(variant))
        assert variant_of_published_teacher(digest) == variant
    assert variant_of_published_teacher("0" * 64) is None


def test_the_first_missing_file_is_named(tmp_path):
    (tmp_path / "a").write_text("")
    assert require_assets(tmp_path, ["a"]) == [tmp_path / "a"]
    with pytest.raises(SettingError, match=r"the file .*/b, got 2 of 3 files missing.*SKDCGN_ASSETS"):
        require_assets(tmp_path, ["a", "b", "c"])
    with pytest.raises(SettingError, match=rf"images\.assets {tmp_path} --groups imagenet_tables`"):
        require_assets(tmp_path, ["imagenet/in_to_in9.json"])


# --- a server that misbehaves as told ---


class Server:
    """Serves files and counts what it sent.

    Attributes:
        files: Content by path.
        cuts: How many bytes to send of the answers to come, before the connection is closed.
        statuses: Answers of this status come first.
        ranges: Whether it understands Range.
        announced: Another Content-Length than the right one; 0 sends none.
        requests: Path and headers of every request.
        sent: Bytes sent in all.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.ranges = True
        self.announced: int | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.on_send: Callable[[], None] = lambda: None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *arguments: None  # a client that hangs up is no news
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.lstrip("/")
        self.requests.append((name, dict(handler.headers)))
        status = self.statuses.pop(0) if self.statuses else 200 if name in self.files else 404
        content = self.files.get(name, b"")
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        first = int(asked[1]) if asked and self.ranges and status == 200 else 0
        if first and first >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = content[first:] if status == 200 else b"no"
        handler.send_response(206 if first else status)
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if self.announced != 0:
            handler.send_header("Content-Length", str(self.announced or len(body)))
        cut = self.cuts.pop(0) if self.cuts and status == 200 else len(body)
        if cut < len(body) or self.announced is not None:
            handler.close_connection = True
        handler.end_headers()
        self.on_send()
        handler.wfile.write(body[:cut])
        self.sent += min(cut, len(body)) if status == 200 else 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download_module, "RETRIES", download_module.RETRIES | {"backoff_factor": 0})
    monkeypatch.delenv(module.MIRROR_VARIABLE, raising=False)
    # No proxy of the surroundings may come between.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = Server()
    served.files["weights.bin"] = CONTENT
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def table(server: Server, tmp_path: Path) -> Path:
    """A table of one asset that the server has."""
    return write_table(tmp_path, {NAME: entry(server)})


def entry(server: Server, **changes: object) -> dict[str, object]:
    usual = {
        "group": "own",
        "licence": "MIT",
        "url": f"{server.url}/weights.bin",
        "sha256": sha256(CONTENT),
        "size": len(CONTENT),
    }
    return {key: value for key, value in (usual | changes).items() if value is not None}


def write_table(folder: Path, entries: dict[str, dict[str, object]]) -> Path:
    path = folder / "table.toml"
    blocks = [
        "\n".join([f'["{name}"]', *(f"{key} = {json.dumps(value)}" for key, value in one.items())])
        for name, one in entries.items()
    ]
    path.write_text("\n".join(blocks))
    return path


def fetch_assets(folder: Path, groups: list[str], mirror: str | None = None, table: Path | None = None) -> Any:
    """Fetch assets of another table than the packaged one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PACKAGED_TABLE", table or module.PACKAGED_TABLE)
        return module.fetch_assets(folder, groups, mirror)


def fetch(tmp_path: Path, table: Path, mirror: object = None) -> list[Any]:
    """Return the rows of the table of assets."""
    frame = fetch_assets(tmp_path / "assets", ["own"], None if mirror is None else str(mirror), table)
    return [*frame.itertuples(index=False)]


def files_in(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_a_missing_asset_is_downloaded_checked_and_put_in_place(server, table, tmp_path):
    (state,) = fetch(tmp_path, table)
    assert (state.name, state.state, state.verified, state.size) == (NAME, DOWNLOADED, True, len(CONTENT))
    assert state.source == f"{server.url}/weights.bin"
    assert (tmp_path / "assets" / NAME).read_bytes() == CONTENT
    assert files_in(tmp_path / "assets") == [NAME]
    assert server.sent == len(CONTENT)


def test_what_is_there_is_left_alone_without_a_request(server, table, tmp_path):
    fetch(tmp_path, table)
    (state,) = fetch(tmp_path, table)
    assert (state.state, state.verified) == (THERE, True)
    assert len(server.requests) == 1


def test_a_folder_that_has_everything_may_be_read_only(server, table, tmp_path, monkeypatch):
    fetch(tmp_path, table)
    monkeypatch.setattr(module, "check_writable", lambda *arguments: pytest.fail("nothing is to be written"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "assets").rglob("*")}
    fetch(tmp_path, table)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "assets").rglob("*")} == before


def test_a_compressed_asset_is_unpacked_and_checked_by_its_content(server, tmp_path):
    server.files["weights.gz"] = gzip.compress(CONTENT)
    table = write_table(tmp_path, {NAME: entry(server, url=f"{server.url}/weights.gz", unpack="gzip")})
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    assert (tmp_path / "assets" / NAME).read_bytes() == CONTENT
    assert files_in(tmp_path / "assets") == [NAME]


@pytest.mark.parametrize(
    "packed", [gzip.compress(CONTENT)[:-30], b"no gzip", gzip.compress(OTHER), gzip.compress(CONTENT * 9)]
)
def test_a_compressed_asset_of_other_content_is_refused(server, tmp_path, packed):
    server.files["weights.gz"] = packed
    table = write_table(tmp_path, {NAME: entry(server, url=f"{server.url}/weights.gz", unpack="gzip")})
    with pytest.raises(
        SettingError, match=f"expected .*{sha256(CONTENT)}, got .*(SHA-256 [0-9a-f]{{64}}|no complete gzip file)"
    ):
        fetch(tmp_path, table)
    assert files_in(tmp_path / "assets") == []


# --- interrupted ---


def test_a_broken_connection_goes_on_where_it_was(server, table, tmp_path):
    server.cuts = [HALF]
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    first, second = (headers for _, headers in server.requests)
    assert "Range" not in first
    (start,) = re.findall(r"bytes=(\d+)-", second["Range"])
    assert 0 < int(start) <= HALF
    assert server.sent == HALF + len(CONTENT) - int(start)
    assert (tmp_path / "assets" / NAME).read_bytes() == CONTENT


def test_a_connection_that_always_breaks_is_one_clear_error_and_the_next_run_goes_on(server, table, tmp_path):
    server.cuts = [HALF, *[0] * 20]
    with pytest.raises(SettingError, match=rf"{NAME}: expected .*bytes are kept.*goes on from there"):
        fetch(tmp_path, table)
    kept = part_of(tmp_path / "assets" / NAME).stat().st_size
    assert 0 < kept <= HALF
    assert not (tmp_path / "assets" / NAME).exists()
    assert len(server.requests) == 2
    server.cuts, before = [], server.sent
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    assert server.sent - before == len(CONTENT) - kept
    assert files_in(tmp_path / "assets") == [NAME]


def test_a_wish_to_stop_keeps_the_part_and_the_next_run_goes_on(server, table, tmp_path):
    server.cuts = [HALF]
    server.on_send = lambda: progress.request_stop() if len(server.requests) == 2 else None
    with pytest.raises(InterruptedRunError, match=r"everything so far is saved\. Repeat the same command"):
        fetch(tmp_path, table)
    kept = part_of(tmp_path / "assets" / NAME).stat().st_size
    assert kept > 0
    progress.clear_stop()
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    assert server.requests[-1][1]["Range"] == f"bytes={kept}-"


def test_a_wish_to_stop_is_heard_between_files(server, tmp_path):
    table = write_table(tmp_path, {NAME: entry(server), "second": entry(server)})
    progress.request_stop()
    with pytest.raises(InterruptedRunError, match="stopped at 0 of 2 files"):
        fetch(tmp_path, table)
    assert server.requests == []


def test_a_server_without_ranges_starts_again(server, table, tmp_path):
    server.ranges, server.cuts = False, [HALF]
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    assert (tmp_path / "assets" / NAME).read_bytes() == CONTENT
    assert server.sent == HALF + len(CONTENT)


def test_a_server_without_ranges_that_breaks_off_forever_is_given_up(server, table, tmp_path):
    server.ranges, server.cuts = False, [HALF] * 40
    with pytest.raises(SettingError, match="bytes are kept"):
        fetch(tmp_path, table)
    assert len(server.requests) == 2


def test_pieces_of_two_versions_are_found_by_their_checksum_and_replaced(server, table, tmp_path, caplog):
    server.files["weights.bin"], server.cuts = OTHER, [HALF, *[0] * 20]
    with pytest.raises(SettingError, match="bytes are kept"):
        fetch(tmp_path, table)
    server.files["weights.bin"], server.cuts = CONTENT, []
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    assert "in pieces; downloading it anew" in caplog.text
    assert (tmp_path / "assets" / NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT, CONTENT + b"more"])
def test_a_part_that_is_complete_or_too_long_is_settled(server, table, tmp_path, content):
    path = tmp_path / "assets" / NAME
    path.parent.mkdir(parents=True)
    part_of(path).write_bytes(content)
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    assert path.read_bytes() == CONTENT
    assert server.sent == (0 if content == CONTENT else len(CONTENT))


def test_a_download_without_a_length_that_ends_early_goes_on(server, table, tmp_path):
    server.announced, server.cuts = 0, [HALF]
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    assert server.requests[1][1]["Range"] == f"bytes={HALF}-"


def test_a_busy_server_is_asked_again(server, table, tmp_path):
    server.statuses = [503, 429]
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    assert len(server.requests) == 3


# --- missing, wrong ---


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_file_that_the_server_does_not_have_is_one_clear_error(server, table, tmp_path, status):
    server.statuses = [status]
    with pytest.raises(SettingError, match=rf"{NAME}: expected .*{status}.* from {server.url}/weights.bin"):
        fetch(tmp_path, table)
    assert len(server.requests) == 1
    assert files_in(tmp_path / "assets") == []


def test_a_server_that_is_not_there_is_one_clear_error(server, tmp_path):
    table = write_table(tmp_path, {NAME: entry(server, url="http://127.0.0.1:9/weights.bin")})
    with pytest.raises(SettingError, match=r"Check the network, or name a folder that has it in SKDCGN_MIRROR"):
        fetch(tmp_path, table)


def test_wrong_content_is_refused_with_both_digests_and_not_put_in_place(server, table, tmp_path):
    server.files["weights.bin"] = OTHER
    with pytest.raises(SettingError) as caught:
        fetch(tmp_path, table)
    message = str(caught.value)
    assert message.startswith(f"{NAME}: expected {len(CONTENT):,} bytes with SHA-256 {sha256(CONTENT)}, got")
    assert sha256(OTHER) in message
    assert "Nothing was put in place" in message
    assert files_in(tmp_path / "assets") == []
    assert len(server.requests) == 1


@pytest.mark.parametrize("length", [100, len(CONTENT) + 1])
def test_a_file_of_another_size_is_refused_before_it_is_transferred(server, table, tmp_path, length):
    server.files["weights.bin"] = bytes(length)
    with pytest.raises(SettingError, match=rf"expected {len(CONTENT):,} bytes with .*got a file of {length:,} bytes"):
        fetch(tmp_path, table)
    assert files_in(tmp_path / "assets") == []


def test_an_endless_file_of_unknown_length_is_cut_off(server, table, tmp_path):
    server.files["weights.bin"], server.announced = CONTENT * 4, 0
    with pytest.raises(SettingError, match=f"more than {len(CONTENT):,} bytes"):
        fetch(tmp_path, table)
    assert files_in(tmp_path / "assets") == []


def test_a_file_of_wrong_content_is_named_and_kept_until_the_right_one_is_verified(server, table, tmp_path, caplog):
    path = tmp_path / "assets" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    server.files["weights.bin"] = OTHER
    with pytest.raises(SettingError):
        fetch(tmp_path, table)
    assert path.read_bytes() == b"mine"
    server.files["weights.bin"] = CONTENT
    assert fetch(tmp_path, table)[0].state == DOWNLOADED
    assert path.read_bytes() == CONTENT
    assert path.with_name("weights.bin.replaced").read_bytes() == b"mine"
    assert f"{path}: expected {len(CONTENT):,} bytes" in caplog.text
    assert "kept as weights.bin.replaced" in caplog.text


def test_what_was_brought_before_a_failure_stays(server, tmp_path):
    broken = entry(server, url=f"{server.url}/absent", sha256=sha256(OTHER))
    table = write_table(tmp_path, {"first": entry(server), "second": broken})
    with pytest.raises(SettingError, match="second"):
        fetch(tmp_path, table)
    assert (tmp_path / "assets" / "first").read_bytes() == CONTENT
    server.files["absent"] = OTHER
    states = fetch(tmp_path, table)
    assert [state.state for state in states] == [THERE, DOWNLOADED]


def test_an_unknown_group_is_refused_before_any_request(server, table, tmp_path):
    with pytest.raises(SettingError, match=r"fetch\.groups: expected one of own.*Did you mean 'own'"):
        fetch_assets(tmp_path / "assets", ["owm"], None, table)
    assert server.requests == []


def test_two_downloads_into_one_folder_are_refused(server, table, tmp_path):
    (tmp_path / "assets").mkdir()
    with (
        FileLock(tmp_path / "assets" / ".fetch.lock"),
        pytest.raises(SettingError, match="another process that downloads there"),
    ):
        fetch(tmp_path, table)
    assert server.requests == []


def test_a_disk_without_space_is_refused_before_any_request(server, tmp_path):
    table = write_table(tmp_path, {NAME: entry(server, size=2**60)})
    with pytest.raises(SettingError, match="MiB free in"):
        fetch(tmp_path, table)
    assert server.requests == []


# --- the mirror ---


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    path = tmp_path / "mirror" / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return tmp_path / "mirror"


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_mirror_folder_is_used_instead_of_the_server(server, table, tmp_path, mirror, monkeypatch, by_variable):
    if by_variable:
        monkeypatch.setenv("SKDCGN_MIRROR", str(mirror))
    (state,) = fetch(tmp_path, table, None if by_variable else mirror)
    assert (state.state, state.verified, state.source) == (DOWNLOADED, True, f"{mirror}/{NAME}")
    assert (tmp_path / "assets" / NAME).read_bytes() == CONTENT
    assert server.requests == []
    assert (mirror / NAME).read_bytes() == CONTENT


def test_a_mirror_has_the_content_unpacked(server, tmp_path, mirror):
    table = write_table(tmp_path, {NAME: entry(server, url=f"{server.url}/weights.gz", unpack="gzip")})
    assert fetch(tmp_path, table, mirror)[0].state == DOWNLOADED
    assert server.requests == []


def test_an_address_can_be_the_mirror(server, tmp_path):
    table = write_table(tmp_path, {NAME: entry(server, url=f"{server.url}/absent")})
    server.files[f"below/{NAME}"] = CONTENT
    (state,) = fetch(tmp_path, table, f"{server.url}/below/")
    assert state.source == f"{server.url}/below/{NAME}"
    assert [name for name, _ in server.requests] == [f"below/{NAME}"]


def test_what_a_mirror_lacks_is_downloaded(server, table, tmp_path):
    (tmp_path / "empty").mkdir()
    assert fetch(tmp_path, table, tmp_path / "empty")[0].source == f"{server.url}/weights.bin"
    (tmp_path / "assets" / NAME).unlink()
    assert fetch(tmp_path, table, f"{server.url}/nothing")[0].source == f"{server.url}/weights.bin"


def test_a_part_outlives_a_mirror_that_lacks_the_file(server, table, tmp_path):
    server.cuts = [HALF, *[0] * 20]
    with pytest.raises(SettingError):
        fetch(tmp_path, table)
    kept = part_of(tmp_path / "assets" / NAME).stat().st_size
    server.cuts = []
    assert fetch(tmp_path, table, f"{server.url}/nothing")[0].state == DOWNLOADED
    assert server.requests[-1][1]["Range"] == f"bytes={kept}-"


@pytest.mark.parametrize("wrong", [OTHER, b"short"])
@pytest.mark.parametrize("by_address", [False, True])
def test_a_damaged_mirror_is_named_and_passed_over(server, table, tmp_path, mirror, caplog, wrong, by_address):
    (mirror / NAME).write_bytes(wrong)
    server.files[f"below/{NAME}"] = wrong
    (state,) = fetch(tmp_path, table, f"{server.url}/below" if by_address else mirror)
    assert state.source == f"{server.url}/weights.bin"
    assert (tmp_path / "assets" / NAME).read_bytes() == CONTENT
    assert "this mirror is passed over" in caplog.text
    assert sha256(CONTENT) in caplog.text
    assert files_in(tmp_path / "assets") == [NAME]


def test_a_mirror_that_is_not_there_is_refused(server, table, tmp_path):
    with pytest.raises(SettingError, match=r"fetch\.mirror \(SKDCGN_MIRROR\): expected a folder or an http\(s\)"):
        fetch(tmp_path, table, tmp_path / "absent")
    assert server.requests == []


def test_the_asset_folder_as_its_own_mirror_changes_nothing(server, table, tmp_path):
    (tmp_path / "assets").mkdir()
    assert fetch(tmp_path, table, tmp_path / "assets")[0].state == DOWNLOADED


def with_password(server) -> str:
    return server.url.replace("://", "://user:secret@")


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_password_of_a_mirror_is_used_and_not_told(server, table, tmp_path, monkeypatch, by_variable):
    address = f"{with_password(server)}/below"
    server.files[f"below/{NAME}"] = CONTENT
    if by_variable:
        monkeypatch.setenv("SKDCGN_MIRROR", address)
    (state,) = fetch(tmp_path, table, None if by_variable else address)
    assert state.source == f"{server.url}/below/{NAME}"
    assert server.requests[0][1]["Authorization"].startswith("Basic ")
    assert all("secret" not in path.read_text(errors="ignore") for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize("wrong", [OTHER, None])
def test_the_password_of_a_mirror_that_fails_is_not_told(server, tmp_path, caplog, wrong):
    table = write_table(tmp_path, {NAME: entry(server)})
    server.files[f"below/{NAME}"] = wrong or b""
    if wrong is None:
        del server.files[f"below/{NAME}"]
    fetch(tmp_path, table, f"{with_password(server)}/below")
    assert "this mirror is passed over" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("mirror", ["ftp://user:secret@host", "http://user:secret@host:port/"])
def test_the_password_of_what_is_no_mirror_is_not_told(server, tmp_path, caplog, mirror):
    table = write_table(tmp_path, {"account.tar": entry(server, **BY_HAND_ENTRY)})
    with pytest.raises(SettingError) as caught:
        fetch(tmp_path, table, mirror)
    assert "secret" not in str(caught.value) + caplog.text


# --- by hand ---

BY_HAND_ENTRY = {"url": None, "by_hand": "Sign in, and put the file at {folder}/there."}


def test_what_needs_an_account_is_told_and_the_rest_is_fetched(server, tmp_path):
    table = write_table(tmp_path, {"account.tar": entry(server, **BY_HAND_ENTRY), NAME: entry(server)})
    states = fetch_assets(tmp_path / "assets", ["own"], None, table)
    assert states["state"].tolist() == [BY_HAND, DOWNLOADED]
    with pytest.raises(SettingError) as caught:
        refuse_missing(states)
    message = str(caught.value)
    assert "account.tar (MIT)" in message
    assert f"put the file at {tmp_path / 'assets'}/there." in message
    assert NAME not in message
    refuse_missing(states[1:])


def test_what_was_got_by_hand_is_checked(server, tmp_path):
    table = write_table(tmp_path, {"account.tar": entry(server, **BY_HAND_ENTRY)})
    path = tmp_path / "assets" / "account.tar"
    path.parent.mkdir()
    path.write_bytes(OTHER)
    (state,) = fetch(tmp_path, table)
    assert state.state == BY_HAND
    assert sha256(OTHER) in state.to_do
    path.write_bytes(CONTENT)
    (state,) = fetch(tmp_path, table)
    assert (state.state, state.verified, state.to_do) == (THERE, True, "")
    assert server.requests == []


def test_without_a_published_checksum_a_file_is_there_but_not_verified(server, tmp_path):
    table = write_table(tmp_path, {"account.tar": entry(server, **BY_HAND_ENTRY, sha256=None, size=None)})
    assert fetch(tmp_path, table)[0].state == BY_HAND
    (tmp_path / "assets").mkdir(exist_ok=True)
    (tmp_path / "assets" / "account.tar").write_bytes(OTHER)
    (state,) = fetch(tmp_path, table)
    assert (state.state, state.verified, state.size) == (THERE, False, len(OTHER))


def test_a_mirror_serves_what_needs_an_account(server, tmp_path, mirror):
    table = write_table(tmp_path, {NAME: entry(server, **BY_HAND_ENTRY)})
    assert fetch(tmp_path, table, mirror)[0].state == DOWNLOADED
    assert (tmp_path / "assets" / NAME).read_bytes() == CONTENT


def test_a_damaged_mirror_of_what_needs_an_account_is_refused(server, tmp_path, mirror):
    table = write_table(tmp_path, {NAME: entry(server, **BY_HAND_ENTRY)})
    (mirror / NAME).write_bytes(OTHER)
    with pytest.raises(SettingError, match=f"{sha256(CONTENT)}, got .*{sha256(OTHER)} from {mirror}"):
        fetch(tmp_path, table, mirror)
    assert files_in(tmp_path / "assets") == []


def test_a_folder_is_there_when_its_subfolders_are(tmp_path):
    table = tmp_path / "table.toml"
    table.write_text(
        '["images"]\ngroup = "own"\nlicence = "?"\nby_hand = "Put them at {folder}/images."\n'
        'contains = {train = 2, "." = 1}\n'
    )
    assert fetch(tmp_path, table)[0].state == BY_HAND
    (tmp_path / "assets" / "images" / "train" / "a").mkdir(parents=True)
    (state,) = fetch(tmp_path, table)
    assert (state.state, "1 instead of 2 folders in train" in state.to_do) == (BY_HAND, True)
    (tmp_path / "assets" / "images" / "train" / "b").mkdir()
    assert fetch(tmp_path, table)[0].state == THERE


def test_the_packaged_instructions_name_the_folder_and_the_source(tmp_path):
    groups = ["imagenet", "imagenet9", "cue_conflict", "imagenet_tables"]
    states = fetch_assets(tmp_path, groups)
    assert set(states["state"]) == {BY_HAND}
    with pytest.raises(SettingError) as caught:
        refuse_missing(states)
    for words in ("https://image-net.org", str(tmp_path / "imagenet" / "ilsvrc2012"), "texture-vs-shape"):
        assert words in str(caught.value)


# --- the table of states, the command ---


def test_the_states_are_a_table(server, table, tmp_path):
    frame = fetch_assets(tmp_path / "assets", ["own"], None, table)
    assert {"name", "size", "licence", "sha256", "state"} <= set(frame.columns)
    assert frame["size"].tolist() == [len(CONTENT)]
    assert list(fetch_assets(tmp_path / "assets", [], None, table).columns) == list(frame.columns)


def test_the_command_fetches_and_tells(server, table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "PACKAGED_TABLE", table)
    monkeypatch.setattr("sys.argv", ["assets", str(tmp_path / "assets"), "--groups", "own"])
    assert main() == 0
    # Kedro, where another test imported it, logs to the same place.
    assert capsys.readouterr().out.endswith(f"1 downloaded, in {tmp_path / 'assets'}\n")
    (tmp_path / "assets" / NAME).unlink()
    server.files.clear()
    assert main() == 1
    assert "404" in capsys.readouterr().err
