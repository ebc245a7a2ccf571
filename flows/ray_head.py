"""Ray for the stages of one flow: a head node on loopback, alive until this process is ended.

``python -m flows.ray_head`` prints the node's address on a line of its own. A process of its own, because Ray takes
5 to 8 s to start: meanwhile the flow starts Prefect. The guard around it ends whatever of Ray is left.
"""

import os
import secrets
import signal
import sys
from pathlib import Path

from flows.child import Child
from stages.core.workers import ray_folder

SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray listens on every interface
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",  # 2.60's default; a process without the token can't join
}
MARK = "RAY_ADDRESS="
GRACE_SECONDS = 0.5
"""Ray's processes need seconds to heed a TERM, and have nothing to save."""


class RayHead:
    """The flow's side: starts the head, and later says how to join it. The head ends when the flow's process does."""

    def __init__(self, root: Path) -> None:
        self._environment = environment()
        self._child = Child(
            [sys.executable, "-m", "flows.ray_head"], root=root, environment=self._environment, grace=GRACE_SECONDS
        )

    @classmethod
    def wanted(cls, runner: str, root: Path) -> "RayHead | None":
        """A head for ``runner`` ray, except where RAY_ADDRESS names a cluster that stages just join."""
        return cls(root) if runner == "ray" and not os.environ.get("RAY_ADDRESS") else None

    def join(self) -> dict[str, str]:
        """The variables of a process that joins; waits for the head. Raises ``RuntimeError`` if Ray did not start."""
        said = []
        for line in self._child.lines():
            if line.startswith(MARK):
                return {**self._environment, "RAY_ADDRESS": line.removeprefix(MARK)}
            said.append(line)
        raise RuntimeError("Ray did not start:\n" + "\n".join(said[-10:]))


def environment() -> dict[str, str]:
    """Variables that the head and all who join it share, with a fresh token among them."""
    folder = os.environ.get("RAY_TMPDIR") or ray_folder()
    return {**SETTINGS, "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_TMPDIR": folder}


def main() -> None:
    """Start Ray with the ``environment()`` that this process was given, say where it is, and stay."""
    import ray

    ray.init(include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    print(f"{MARK}{ray.get_runtime_context().gcs_address}", flush=True)
    # Whoever ends this ends the whole group by its guard: Ray's own orderly end takes 8 s and there is nothing to keep.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.pause()


if __name__ == "__main__":
    main()
