"""Only who has the workspace's token runs commands through our servers, and no secret is shown (docs/security.md)."""

import asyncio
import base64
import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from benchmarks.workspace import Workspace
from flows import listener, mlflow_pages, ray_head, server, ui
from flows.child import Children
from flows.mlflow_pages import Door
from flows.summary import print_results
from flows.work_pool import job_template
from stages.commands import doctor, track
from stages.core import tracking, workers
from stages.core.addresses import hidden
from tests.help import intruder, toy
from tests.help.intruder import as_nobody

SECRET = "http://me:pa/ss@word@127.0.0.1:9/api?token=pass"
as_root = pytest.mark.skipif(os.getuid() != 0, reason="root alone can act as another account")


@pytest.fixture(autouse=True)
def _no_server_of_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that every account can look into, all the way down to it."""
    changed = [folder for folder in (tmp_path, *tmp_path.parents) if folder.stat().st_uid == os.getuid()]
    modes = {folder: stat.S_IMODE(folder.stat().st_mode) for folder in changed}
    for folder, mode in modes.items():
        folder.chmod(mode | 0o055)
    yield tmp_path
    for folder, mode in modes.items():
        folder.chmod(mode)


# The token


def test_the_token_is_made_once_for_its_user_alone(open_folder: Path) -> None:
    token = server.token(open_folder)
    path = open_folder / ".prefect" / "token"
    assert len(token) >= 43 and server.token(open_folder) == token
    assert [stat.S_IMODE(found.stat().st_mode) for found in (path, path.parent)] == [0o600, 0o700]
    assert [found.name for found in path.parent.iterdir()] == ["token"]
    path.parent.chmod(0o755)  # as an earlier `make ui` left it
    if os.getuid() == 0:
        assert as_nobody(lambda: str(path.stat().st_size)) == "43"
        assert as_nobody(path.read_text) == "PermissionError"


def test_a_token_that_others_may_have_read_is_refused_and_a_removed_one_is_made_anew(tmp_path: Path) -> None:
    token = server.token(tmp_path)
    (tmp_path / ".prefect/token").chmod(0o640)
    with pytest.raises(ValueError, match=r"rm .*/\.prefect/token"):
        server.token(tmp_path)
    (tmp_path / ".prefect/token").unlink()
    assert server.token(tmp_path) != token


@pytest.mark.parametrize("text", ["", "\n", "x" * 31])
def test_a_token_that_is_empty_or_cut_off_is_refused(tmp_path: Path, text: str) -> None:
    """With an empty one the servers let everybody in."""
    server.token(tmp_path)
    (tmp_path / ".prefect/token").write_text(text)
    with pytest.raises(ValueError, match=r"rm .*/\.prefect/token, and start again"):
        server.token(tmp_path)


def test_a_link_or_folder_in_place_of_the_token_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    path = server.closed_home(tmp_path) / "token"
    path.symlink_to(other)
    for _ in ("dangling", "of a file that would do"):
        with pytest.raises(ValueError, match=r"rm .*/\.prefect/token, and start again"):
            server.token(tmp_path)
        other.touch(mode=0o600)
        other.write_text("x" * 43)
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(ValueError, match="this user's alone"):
        server.token(tmp_path)


def test_the_token_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[object] = []
    fsync, link = os.fsync, os.link

    def sync(file: int) -> None:
        fsync(file)
        steps.append(os.fstat(file).st_size)

    def name(draft: Path, path: Path) -> None:
        steps.append("named")
        link(draft, path)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", name)
    server.token(tmp_path)
    assert steps == [43, "named"]


def test_a_folder_that_an_earlier_version_left_open_is_closed_before_it_is_used(tmp_path: Path) -> None:
    folder = tmp_path / ".prefect"
    folder.mkdir()
    for use in (server.closed_home, server.of_ui, server.token):
        folder.chmod(0o755)
        use(tmp_path)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    with server.note(tmp_path):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "ui.url").stat().st_mode) == 0o600
        folder.chmod(0o755)
        assert server.token(tmp_path)
        assert (folder / "ui.url").exists()  # it was not open


@as_root
def test_a_folder_of_another_account_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".prefect").mkdir(mode=0o700)
    os.chown(tmp_path / ".prefect", 65534, 65534)
    for use in (server.of_ui, server.token):
        with pytest.raises(ValueError, match="belongs to another account"):
            use(tmp_path)


# Who listens


@pytest.mark.parametrize("table", [listener.TABLE, Path("/nowhere")])
def test_only_a_server_of_our_own_on_loopback_counts_as_ours(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "TABLE", table)
    with socket.create_server((server.HOST, 0)) as own, socket.create_server(("0.0.0.0", 0)) as everywhere:
        port = own.getsockname()[1]
        assert listener.accounts(port) == {os.getuid()}
        listener.require_own(f"http://127.0.0.1:{port}/api")
        with socket.create_connection((server.HOST, port)), pytest.raises(RuntimeError, match="another account's"):
            listener.require_own(f"http://127.0.0.1:{everywhere.getsockname()[1]}/api")
        for other in (f"http://example.org:{port}/api", "http://127.0.0.1/api", ""):
            with pytest.raises(RuntimeError, match="no server of this workspace"):
                listener.require_own(other)
    assert listener.accounts(port) == set()


def test_who_listens_is_told_from_who_is_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has just been closed is nobody's: Linux says 0, which is root's number."""
    rows = ["sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode"]
    for number, (address, state, account) in enumerate(
        [("0100007F:1068", "0A", 1000), ("0100007F:1068", "06", 0), ("0100007F:1069", "0A", 2), ("0:1068", "0A", 3)]
    ):
        rows.append(f" {number}: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {account} 0 9")
    monkeypatch.setattr(listener, "TABLE", tmp_path / "tcp")
    (tmp_path / "tcp").write_text("\n".join(rows) + "\n")
    assert listener.accounts(4200) == {1000}


@as_root
def test_who_takes_the_port_while_a_server_starts_is_not_sent_the_token(tmp_path: Path) -> None:
    port = server.free_port()
    url = f"http://127.0.0.1:{port}/api"
    child: Any = SimpleNamespace(is_alive=True)
    with intruder.listening(port) as heard, server.note(tmp_path) as note:
        assert server.answers(url)
        with pytest.raises(RuntimeError, match=f"another account's program listens on port {port};"):
            server.wait_for(url, child)
        print(url, file=note, flush=True)
        with pytest.raises(RuntimeError, match=f"another account's program listens on port {port};"):
            server.of_ui(tmp_path)
    assert heard == [""]


@as_root
def test_who_locked_the_note_of_an_earlier_version_is_neither_believed_nor_in_the_way(open_folder: Path) -> None:
    port = server.free_port()
    note = open_folder / ".prefect/ui.url"
    note.parent.mkdir(mode=0o755)
    note.write_text(f"http://127.0.0.1:{port}/api\n")  # of a `make ui` that was killed
    note.chmod(0o644)
    with intruder.listening(port, locked=note) as heard:
        assert server.of_ui(open_folder) is None
        with server.note(open_folder):
            pass
    assert heard == [""]


def test_servers_ask_for_the_token_clients_have_it_and_pages_of_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, str]] = []
    commands: list[Any] = []

    def note(command: list[str], *, environment: dict[str, str], **_: Any) -> None:
        commands.append(command)
        given.append(environment)

    monkeypatch.setattr(server, "Child", note)
    _, url = server.start(tmp_path)
    token = server.token(tmp_path)
    assert given[0]["PREFECT_SERVER_API_AUTH_STRING"] == given[0]["PREFECT_API_AUTH_STRING"] == token
    assert given[0]["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == url.removesuffix("/api")
    assert token not in str(commands)  # everybody sees those


def test_a_note_counts_only_while_its_make_ui_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the token would be sent to whoever listens on that port now."""
    server.token(tmp_path)
    monkeypatch.setattr(server, "answers", lambda url: True)
    with server.note(tmp_path) as note, socket.create_server((server.HOST, 0)) as own:
        assert server.of_ui(tmp_path) is None
        url = f"http://127.0.0.1:{own.getsockname()[1]}/api"
        print(url, file=note, flush=True)
        assert server.of_ui(tmp_path) == url
        with pytest.raises(RuntimeError, match="another `make ui`"), server.note(tmp_path):
            pass
        killed = (tmp_path / ".prefect/ui.url").read_text()
    (tmp_path / ".prefect/ui.url").write_text(killed)
    assert server.of_ui(tmp_path) is None


def test_a_run_chooses_neither_command_nor_variables_nor_folder() -> None:
    template = job_template()
    assert [*template["job_configuration"]] == [*template["variables"]["properties"]] == ["stream_output"]
    assert template["variables"]["additionalProperties"] is False


# MLflow's pages


def answer(method: str = "GET", path: str = "/", **headers: str) -> int | str:
    """The status that a door with the token `right` answers, or `inside`."""
    sent: list[Any] = []

    async def inside(*_: Any) -> None:
        sent.append({"status": "inside"})

    async def send(message: Any) -> None:
        sent.append(message)

    fields = {"host": "127.0.0.1:5000", **headers}
    scope = {
        "type": "http", "method": method, "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }  # fmt: skip
    asyncio.run(Door(inside, "right")(scope, None, send))
    found: int | str = sent[0]["status"]
    return found


def test_the_door_opens_for_the_token_and_for_nothing_else() -> None:
    right, wrong = "Basic YW55Ym9keTpyaWdodA==", "Basic YW55Ym9keTp3cm9uZw=="  # anybody:right, anybody:wrong
    assert answer(authorization=right) == answer("POST", authorization=right) == "inside"
    assert answer("POST", authorization=right, origin="http://127.0.0.1:5000") == "inside"
    for other in (wrong, "", "Basic", "Basic ???", "Bearer right", "Basic cmlnaHQ=", right[:-6]):
        assert answer(authorization=other) == 401
    assert answer("PUT") == answer(path="/health/") == answer("POST", "/health") == 401
    assert answer(path="/health") == "inside"
    for origin in ("http://127.0.0.1:5001", "http://localhost:5000", "https://127.0.0.1:5000", "null", ""):
        assert answer("POST", authorization=right, origin=origin) == 403


def test_mlflow_keeps_artifacts_in_its_folder_and_starts_behind_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ui._mlflow_command(tmp_path, 5000)
    assert command[command.index("--app-name") + 1] == mlflow_pages.NAME
    assert command[command.index("--artifacts-destination") + 1] == str(tmp_path / ".mlflow/artifacts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("_MLFLOW_SERVER_ARTIFACT_ROOT", raising=False)
    track.run(make_database=True)
    (default,) = tracking.connect().client.search_experiments()
    assert default.artifact_location == (tmp_path / ".mlflow/artifacts/0").as_uri()
    assert [path.name for path in tmp_path.iterdir()] == [".mlflow"]


def test_a_database_of_an_earlier_version_gets_its_artifacts_into_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inside = (tmp_path / ".mlflow/artifacts/0").as_uri()
    for before, after in (
        ("./mlruns/0", inside),
        (f"{tmp_path}/mlruns/0", inside),
        (f"{inside}-moved", f"{inside}-moved"),
        ("mlflow-artifacts:/0", "mlflow-artifacts:/0"),
    ):
        track.run(make_database=True)
        with sqlite3.connect(".mlflow/mlflow.db") as database:
            database.execute("UPDATE experiments SET artifact_location = ?", (before,))
        track.run(make_database=True)
        (default,) = tracking.connect().client.search_experiments()
        assert default.artifact_location == after


# DVC


def test_dvc_keeps_its_cache_of_pickles_where_only_the_user_writes(project: Workspace) -> None:
    assert not {name for name in project.environment() if name.startswith("DVC_SITE")}
    project.dvc("status", check=False)
    (cache,) = (path for path in (project.root / ".dvc-site/repo").iterdir() if path.is_dir())
    assert any(cache.rglob("*.db"))
    for folder in (cache, cache.parent, cache.parent.parent):
        assert not folder.stat().st_mode & 0o022
    assert not (Path("/var/tmp/dvc/repo") / cache.name).exists()
    assert project.root.joinpath(".gitignore").read_text().splitlines().count(".dvc-site/") == 1


# Ray


def test_ray_keeps_its_sockets_where_others_cannot_reach(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(workers.tempfile, "gettempdir", lambda: str(open_folder))
    folder = Path(ray_head.environment()["RAY_TMPDIR"])
    assert folder.parent == open_folder and stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert workers.ray_folder() == str(folder)
    folder.chmod(0o755)
    with pytest.raises(ValueError, match="RAY_TMPDIR"):
        workers.ray_folder()
    folder.rmdir()
    folder.symlink_to(open_folder)
    with pytest.raises(ValueError, match="RAY_TMPDIR"):
        workers.ray_folder()


# Addresses


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SECRET, "http://***@127.0.0.1:9/api?***"),
        ("API request to https://a:b@c.de/x failed: why?", "API request to https://***@c.de/x failed: why?"),
        ("postgresql://a:b@c/d?password=e", "postgresql://***@c/d?***"),
        ("http://c.de/api#token=pass is away", "http://c.de/api#*** is away"),
        ("http://c.de/api?a=pass#token=pass", "http://c.de/api?***"),
        ("http://127.0.0.1:4200/api", "http://127.0.0.1:4200/api"),
        ("sqlite:////home/a/mlflow.db", "sqlite:////home/a/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_what_is_secret(text: str, shown: str) -> None:
    assert hidden(text) == shown


def test_doctor_warnings_and_summaries_show_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.setenv(name, SECRET)
    shown = [str(check(tmp_path)) for check in (doctor.prefect_api, doctor.mlflow_database, doctor.ray_address)]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:password@127.0.0.1:9/api")
    console = Console(record=True)
    print_results(console, tmp_path)
    shown += [console.export_text(), track._away(OSError(f"no answer from {SECRET}"))]
    with tracking.live("deeplab-rgb-full-0", key="a", parameters={}, experiment="toy"):
        pass
    shown.append(caplog.text)
    for text in shown:
        assert "***@" in text
        assert not any(secret in text for secret in ("me:", "pa/ss", "word", "pass"))


def test_a_login_in_the_address_of_prefect_goes_where_prefect_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.configured() == {}
    monkeypatch.setenv("PREFECT_API_URL", "https://me:pa%40ss@example.org/me:pa%40ss/api")
    url = "https://example.org/me:pa%40ss/api"
    assert server.configured() == {"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": "me:pa@ss"}
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert server.configured() == {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://me:q7/z9@example.org/api", "%2F"),
        ("http://me:q7?z9@example.org/api", "%3F"),
        ("http://me:q7#z9@example.org/api", "%23"),
        ("http://example.org/api?token=q7", "query or fragment"),
        ("http://example.org/api#token=q7", "query or fragment"),
        ("http://me:q7[@example.org/api", "not an address"),
        ("http://me:q7\u2100@example.org/api", "not an address"),
    ],
)
def test_an_address_of_prefect_that_may_hold_a_secret_elsewhere_is_refused_without_showing_it(
    url: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(ValueError, match=why) as refused:
        server.configured()
    assert "example.org" in str(refused.value)
    assert not any(secret in str(refused.value) for secret in ("me:", "q7", "z9"))


@pytest.mark.parametrize("module", ["flows.reproduce", "flows.work_pool"])
def test_a_login_in_the_address_of_prefect_is_neither_printed_nor_stored(tmp_path: Path, module: str) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.add(self.headers.get("Authorization", ""))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    heard: set[str] = set()
    folder = toy.make(tmp_path / "project", "stages:\n  one:\n    cmd: touch done\n    outs:\n      - done\n")
    with ThreadingHTTPServer((server.HOST, 0), Refusing) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        url = f"http://me:xyzzy@{server.HOST}:{http.server_port}/api"
        command = [sys.executable, "-m", module]
        env = toy.environment(PREFECT_API_URL=url, PREFECT_HOME=str(folder / ".prefect"))
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=500)
        http.shutdown()
    assert done.returncode != 0 and "401" in done.stdout + done.stderr
    assert heard == {"Basic " + base64.b64encode(b"me:xyzzy").decode()}
    assert "xyzzy" not in done.stdout + done.stderr
    assert [path for path in folder.rglob("*") if path.is_file() and b"xyzzy" in path.read_bytes()] == []


# The servers themselves

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")  # Debian's; selenium would download others
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1400,1000",
)  # fmt: skip
FETCH = """
const [url, method, mode, done] = arguments;
const body = method == "GET" ? undefined : JSON.stringify({name: "foreign"});
fetch(url, {method, mode, body, credentials: "include"})
    .then(reply => reply.text()).then(text => done("read: " + text), error => done("refused: " + error));
"""


@dataclass(frozen=True)
class Stand:
    """What `make ui` starts, in a project of one stage, which makes the file ``done``."""

    folder: Path
    services: ui.Services

    @property
    def api(self) -> str:
        return f"{self.services.prefect}/api"

    def ask(self, what: str, body: object = None) -> Any:
        """What Prefect's API answers to who has the token."""
        login = base64.b64encode(server.token(self.folder).encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
        request = urllib.request.Request(f"{self.api}/{what}", data=json.dumps(body or {}).encode(), headers=headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    def states(self) -> list[str]:
        """Of the runs that somebody asked for; the schedule's come beside them."""
        return [run["state_type"] for run in self.ask("flow_runs/filter") if not run["auto_scheduled"]]

    def log(self) -> list[str]:
        return [line["message"] for line in self.ask("logs/filter")]

    def wait_for(self, states: list[str]) -> None:
        toy.wait_until(lambda: self.states() == states, seconds=300, what=f"runs are {states}")


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    pipeline = "stages:\n  one:\n    cmd: touch done\n    outs:\n      - done\n"
    folder = toy.make(tmp_path_factory.mktemp("stand"), pipeline)
    for name in ("flows", "stages", "prefect.yaml"):
        (folder / name).symlink_to(toy.PROJECT / name)
    with Children() as children:
        yield Stand(folder, ui.start(children, folder, prefect_port=0, mlflow_port=0))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    if not CHROMIUM.exists() or not DRIVER.exists():
        pytest.skip(f"{CHROMIUM} or {DRIVER} is not there: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_the_attack_without_the_token_is_refused_and_nothing_runs(stand: Stand, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (deployment,) = stand.ask("deployments/filter")
    before = stand.states()
    for status in intruder.answers(stand.api, deployment=deployment["id"], marker=marker).values():
        assert status == 401
    # With the token, too, no run chooses what is executed.
    for chosen in ({"command": f"touch {marker}"}, {"env": {"A": "b"}}, {"env.A": "b"}, {"working_dir": "/"}):
        with pytest.raises(urllib.error.HTTPError, match="422"):
            run = {"state": {"type": "SCHEDULED"}, "job_variables": chosen}
            stand.ask(f"deployments/{deployment['id']}/create_flow_run", run)
    stand.ask(f"deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    stand.wait_for([*before, "COMPLETED"])  # so the worker has asked for runs since
    assert (stand.folder / "done").exists() and not marker.exists()
    toy.wait_until(lambda: "> touch done" in stand.log(), what="the run's log has come")


@pytest.mark.slow
def test_no_socket_of_the_server_talks_to_who_lacks_the_token(stand: Stand) -> None:
    def talk(path: str, protocols: list[Subprotocol] | None, token: str) -> str:
        with connect(f"{stand.api.replace('http', 'ws')}/{path}", subprotocols=protocols) as socket:
            socket.send(json.dumps({"type": "auth", "token": token}))
            return str(socket.recv(timeout=60))

    spoken = [Subprotocol("prefect")]
    for path in ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"):
        assert "auth_success" in talk(path, spoken, server.token(stand.folder))
        for protocols, token in ((spoken, "wrong"), (spoken, ""), (None, "wrong")):
            with pytest.raises((ConnectionClosed, InvalidStatus)):
                talk(path, protocols, token)


@pytest.mark.slow
def test_mlflow_takes_nothing_from_others_and_shows_them_nothing(stand: Stand) -> None:
    upload = f"{stand.services.mlflow}/api/2.0/mlflow-artifacts/artifacts/other/file"
    read = f"{stand.services.mlflow}/ajax-api/2.0/mlflow/experiments/search?max_results=1"

    def try_both() -> str:
        own = {"Origin": stand.services.mlflow or "", "Host": upload.split("/")[2]}
        return f"{intruder.status(upload, body=b'x', method='PUT', **own)} {intruder.status(read, **own)}"

    assert try_both() == "401 401"
    if os.getuid() == 0:
        assert intruder.as_nobody(try_both) == "401 401"
    login = {"Authorization": "Basic " + base64.b64encode(f"me:{server.token(stand.folder)}".encode()).decode()}
    assert intruder.status(upload, body=b"x", method="PUT", **login) == 403  # a foreign origin
    own = {"Origin": stand.services.mlflow or "", "Host": upload.split("/")[2]}
    assert intruder.status(upload.replace("other", "own"), body=b"x", method="PUT", **login, **own) == 200
    assert [path.name for path in (stand.folder / ".mlflow/artifacts").iterdir()] == ["own"]
    assert not {"mlruns", "mlartifacts"} & {path.name for path in stand.folder.iterdir()}


@pytest.mark.slow
def test_who_logs_in_starts_a_run_from_the_page(stand: Stand, browser: webdriver.Chrome) -> None:
    wait = WebDriverWait(browser, 60)

    def click(text: str) -> None:
        path = f"//*[self::a or self::button or @role='menuitem'][normalize-space()='{text}']"
        wait.until(expected_conditions.element_to_be_clickable((By.XPATH, path))).click()

    before = stand.states()
    browser.get(stand.services.prefect)
    field = wait.until(expected_conditions.element_to_be_clickable((By.CSS_SELECTOR, "form input")))
    assert "/login" in browser.current_url
    field.send_keys(server.token(stand.folder) + "\n")
    for text in ("Deployments", "nightly", "Run", "Quick run"):
        click(text)
    stand.wait_for([*before, "COMPLETED"])
    assert (stand.folder / "done").exists()


@pytest.mark.slow
def test_a_page_of_another_origin_reads_and_posts_nothing_though_the_user_is_logged_in(
    stand: Stand, browser: webdriver.Chrome
) -> None:
    assert stand.services.mlflow is not None
    mlflow = stand.services.mlflow
    browser.get(mlflow.replace("//", f"//me:{server.token(stand.folder)}@"))
    own = f"{mlflow}/ajax-api/2.0/mlflow/experiments/search?max_results=5"
    assert "Default" in browser.execute_async_script(FETCH, own, "GET", "cors")
    (deployment,) = stand.ask("deployments/filter")
    before = stand.states()
    upload = f"{mlflow}/ajax-api/2.0/mlflow-artifacts/artifacts/foreign/file"
    with ThreadingHTTPServer((server.HOST, 0), BaseHTTPRequestHandler) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        browser.get(f"http://{server.HOST}:{http.server_port}/")
        for url, method in (
            (own, "GET"),
            (upload, "PUT"),
            (f"{stand.api}/flow_runs/filter", "POST"),
            (f"{stand.api}/deployments/{deployment['id']}/create_flow_run", "POST"),
        ):
            assert "refused" in browser.execute_async_script(FETCH, url, method, "cors")
        for url in (f"{mlflow}/ajax-api/2.0/mlflow/experiments/create", f"{stand.api}/work_pools/"):
            assert browser.execute_async_script(FETCH, url, "POST", "no-cors") == "read: "  # sent, and unseen
        http.shutdown()
        browser.get(mlflow)
        assert "foreign" not in browser.execute_async_script(FETCH, own, "GET", "cors")
    assert stand.states() == before
    assert not (stand.folder / ".mlflow/artifacts/foreign").exists()
    assert len(stand.ask("work_pools/filter")) == 1
