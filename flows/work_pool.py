"""``python -m flows.work_pool``: make the work pool of prefect.yaml, or bring it up to date.

Prefect's own template lets each run say which `command` the worker executes, with what `env` and in which
`working_dir`. This one lets it choose only what changes nothing of that.
"""

import os
from typing import Any

from flows import server
from stages.core import cli

POOL = "workspace"
CHOSEN_BY_A_RUN = ("stream_output",)
"""A list of what is allowed: a variable that a later Prefect adds isn't."""


def job_template() -> dict[str, Any]:
    """The installed Prefect's template for processes, cut down to ``CHOSEN_BY_A_RUN``."""
    from prefect.workers.process import ProcessWorker

    own = ProcessWorker.get_default_base_job_template()
    # `env` must not even be an empty mapping in there: a run's would be merged into it.
    return {
        "job_configuration": {name: own["job_configuration"][name] for name in CHOSEN_BY_A_RUN},
        "variables": {
            "type": "object",
            "properties": {name: own["variables"]["properties"][name] for name in CHOSEN_BY_A_RUN},
            "additionalProperties": False,
        },
    }


def main() -> None:
    """Make the pool on the server that PREFECT_API_URL names."""
    os.environ.update(server.configured())
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=job_template())
    with get_client(sync_client=True) as client:
        client.create_work_pool(pool, overwrite=True)


if __name__ == "__main__":
    cli.run(main)
