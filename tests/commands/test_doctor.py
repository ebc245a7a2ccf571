"""Each check of the doctor sees the fault that it is there for, says how to mend it, and is content without it."""

import fcntl
import json
import os
import socket
import sqlite3
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest

from benchmarks.workspace import CHECKOUT, Workspace
from stages.commands import doctor

TORCH_WITH_GPU = """
class tensor(list):
    def __init__(self, values=(), device="cpu"):
        super().__init__(values)
        self.device = device
    def tolist(self):
        return list(self)
    def sum(self):
        return 4
def ones(*shape, device):
    return tensor(device=device)
class cuda:
    is_available = staticmethod(lambda: True)
"""
OPERATORS_WITHOUT_CUDA = """
import torch
def nms(boxes, scores, threshold):
    if boxes.device == "cuda":
        raise RuntimeError("nms_impl: implementation for device cuda:0 not found.")
    return boxes, torch.tensor([0])
def roi_align(features, boxes, size):
    return features
"""


def pin(root: Path, path: str, *, size: int = 1) -> None:
    (root / "data.dvc").write_text(f"outs:\n- path: {path}\n  hash: md5\n  md5: abc.dir\n  size: {size}\n")


def database(root: Path, schema: str | None) -> sqlite3.Connection:
    (root / ".mlflow").mkdir()
    connection = sqlite3.connect(root / ".mlflow" / "mlflow.db", isolation_level=None)
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    if schema:
        connection.execute("INSERT INTO alembic_version VALUES (?)", (schema,))
    return connection


def test_the_installed_packages_are_the_pinned_ones() -> None:
    assert doctor.versions(CHECKOUT).state == "ok"


def test_another_version_fails_only_where_it_is_known_to_break(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("FastAPI==0.0.1\nrich==0.0.1\n")
    result = doctor.versions(tmp_path)
    assert result.state == "fail"
    assert "FastAPI" in result.detail
    assert "make setup" in result.mend
    constraints.write_text("rich==0.0.1  # only untested\nnot-installed-at-all==1.0\n")
    result = doctor.versions(tmp_path)
    assert (result.state, "rich" in result.detail) == ("warn", True)


def test_this_environments_opencv_and_python_pass() -> None:
    assert doctor.opencv(CHECKOUT).state == "ok"
    assert doctor.python_version(CHECKOUT).state == "ok"


def test_mmcvs_operators_that_do_not_run_are_a_failure_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "operators.py").write_text("raise ImportError('undefined symbol')")
    result = doctor.mmcv(tmp_path)
    assert (result.state, result.detail) == ("fail", "ImportError: undefined symbol")


def test_an_mmcv_without_cuda_on_a_machine_with_it_is_told_so(tmp_path: Path) -> None:
    folder = tmp_path / ".ci"  # where a script lies, Python looks for modules first
    (folder / "mmcv").mkdir(parents=True)
    (folder / "torch.py").write_text(TORCH_WITH_GPU)
    (folder / "mmcv" / "__init__.py").touch()
    (folder / "mmcv" / "ops.py").write_text(OPERATORS_WITHOUT_CUDA)
    (folder / "operators.py").write_bytes((CHECKOUT / ".ci" / "operators.py").read_bytes())
    result = doctor.mmcv(tmp_path)
    assert (result.state, "mmcv was built without CUDA" in result.detail) == ("fail", True)
    assert "FORCE_CUDA=1" in result.mend


@pytest.mark.slow
def test_this_environments_mmcv_operators_run() -> None:
    assert doctor.mmcv(CHECKOUT).state == "ok"


def test_a_parameter_that_the_run_cache_ignores_fails(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train:\n  size: 3\n")
    assert "`train.size`" in doctor.parameters(tmp_path).detail
    (tmp_path / "params.yaml").write_text("train:\n  height: 3\n")
    assert doctor.parameters(tmp_path).state == "ok"


def test_overlapping_outputs_fail_and_are_named(project: Workspace) -> None:
    pin(project.root, "data/raw")
    assert doctor.pipeline(project.root).state == "ok"
    pin(project.root, "data")
    result = doctor.pipeline(project.root)
    assert result.state == "fail"
    assert "overlap" in result.detail
    assert "data.dvc must track data/raw alone" in result.mend


def test_a_site_cache_of_dvc_that_others_write_to_is_a_warning(tmp_path: Path) -> None:
    for folder in (".dvc-site/repo", "stages/core/.dvc-site/repo", ".venv/.dvc-site/repo"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder).chmod(0o755)
        (tmp_path / folder).parent.chmod(0o755)
    assert doctor.dvc_site_caches(tmp_path).state == "ok"
    assert "DVC site caches" in doctor.CHECKS
    for open_one in ("stages/core/.dvc-site", ".dvc-site/repo"):
        for mode in (0o775, 0o757):
            (tmp_path / open_one).chmod(mode)
            result = doctor.dvc_site_caches(tmp_path)
            assert (result.state, str(tmp_path / open_one.removesuffix("/repo")) in result.mend) == ("warn", True)
        (tmp_path / open_one).chmod(0o755)
    assert doctor.dvc_site_caches(tmp_path).state == "ok"


def test_what_a_killed_dvc_left_behind_is_found(tmp_path: Path) -> None:
    folder = tmp_path / ".dvc" / "tmp"
    folder.mkdir(parents=True)
    assert doctor.dvc_locks(tmp_path).state == "ok"
    table = folder / "rwlock"
    table.write_text('{"write": {"data/in')
    assert "rm .dvc/tmp/rwlock" in doctor.dvc_locks(tmp_path).mend
    # A process number that another program has now; dvc drops those of processes that are gone by itself.
    table.write_text(json.dumps({"read": {"data/index": [{"pid": os.getppid(), "cmd": "dvc repro"}]}}))
    assert doctor.dvc_locks(tmp_path).state == "fail"
    table.write_text(json.dumps({"write": {"data/index": {"pid": 2**22 + 1, "cmd": "dvc repro"}}}))
    assert doctor.dvc_locks(tmp_path).state == "ok"


def test_a_dvc_at_work_is_a_warning_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / ".dvc" / "tmp"
    folder.mkdir(parents=True)
    (folder / "lock").write_text("  4711\n")
    assert doctor.dvc_locks(tmp_path).state == "ok"  # the number stays in the file; only the lock counts
    with (folder / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = doctor.dvc_locks(tmp_path)
    assert (result.state, "4711" in result.detail) == ("warn", True)


def test_missing_data_fails_and_says_how_to_get_it(tmp_path: Path) -> None:
    assert "stages.commands.data ensure" in doctor.raw_data(tmp_path).mend
    (tmp_path / "data/raw/Release").mkdir(parents=True)
    assert doctor.raw_data(tmp_path).state == "ok"


def test_room_is_measured_against_the_data_set_at_hand(tmp_path: Path) -> None:
    assert "2.0 GB needed" in doctor.disk(tmp_path).detail
    pin(tmp_path, "data/raw", size=10**15)
    assert doctor.disk(tmp_path).state == "warn"


def test_a_small_shared_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.shared_memory(tmp_path, tmp_path / "absent").state == "ok"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    assert "--shm-size" in doctor.shared_memory(tmp_path, tmp_path).mend


def test_a_database_is_opened_checked_and_compared_with_the_installed_mlflow(tmp_path: Path) -> None:
    assert doctor.mlflow_database(tmp_path).state == "ok"
    connection = database(tmp_path, "abc")
    assert doctor.mlflow_database(tmp_path, newest="abc").state == "ok"
    result = doctor.mlflow_database(tmp_path)
    assert result.state == "fail"
    assert "db upgrade" in result.mend
    connection.execute("BEGIN EXCLUSIVE")
    assert doctor.mlflow_database(tmp_path, newest="abc").state == "warn"


def test_a_database_whose_migration_never_ended_fails(tmp_path: Path) -> None:
    database(tmp_path, None).close()
    assert "unfinished" in doctor.mlflow_database(tmp_path).detail


def test_a_damaged_database_fails_and_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / ".mlflow").mkdir()
    path = tmp_path / ".mlflow" / "mlflow.db"
    path.write_bytes(b"no database" * 1000)
    assert "make track" in doctor.mlflow_database(tmp_path).mend
    assert path.read_bytes() == b"no database" * 1000


@pytest.mark.parametrize(
    ("variable", "prefix", "check"),
    [("PREFECT_API_URL", "http://", doctor.prefect_api), ("RAY_ADDRESS", "", doctor.ray_address)],
)
def test_an_address_that_is_set_must_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, prefix: str, check: doctor.Check
) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert check(tmp_path).state == "ok"
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv(variable, f"{prefix}127.0.0.1:{server.getsockname()[1]}")
        assert check(tmp_path).state == "ok"
    result = check(tmp_path)
    assert result.state == "fail"
    assert f"unset {variable}" in result.mend


@pytest.mark.parametrize(("answer", "state"), [(b'"3.8.8"', "warn"), (b"<html>log in</html>", "ok"), (None, "ok")])
def test_a_prefect_server_that_takes_requests_without_a_token_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | None, state: str
) -> None:
    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if answer else 401)
            self.end_headers()
            self.wfile.write(answer or b"")

        def log_message(self, *_: object) -> None:
            pass

    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://me:secret@127.0.0.1:{http.server_port}/api")
        result = doctor.prefect_api(tmp_path)
        http.shutdown()
    assert asked == ["/api/admin/version"]
    assert result.state == state and "secret" not in result.detail
    assert ("PREFECT_SERVER_API_AUTH_STRING" in result.mend) == (state == "warn")


def test_only_a_failure_ends_with_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", {"a": lambda _: doctor.Result("warn", "odd [brackets]", "mend it")})
    assert doctor.main() == 0
    assert "odd [brackets]" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CHECKS", {"a": lambda _: doctor.Result("fail", "broken", "mend it")})
    assert doctor.main() == 1
