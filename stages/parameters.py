"""Stage `parameters`: check the names in params.yaml before any other stage runs or is restored.

Reads params.yaml as a file. DVC's run cache finds a stage by its parameters, but leaves `size` and `nfiles` out: it
would restore a stage that was given such a parameter, and the stage's own check would never run. What this stage writes
is always the same, so a change of params.yaml makes no other stage stale.
"""

from pathlib import Path

from stages.core import cli, params


def run(*, path: Path = params.PARAMS, output: Path = Path("data/parameters")) -> None:
    """Check ``path``. Raises ``ValueError`` for a forbidden name or a file that is no mapping."""
    params.read(path)
    output.mkdir(parents=True, exist_ok=True)
    (output / "checked.txt").write_text("The names in params.yaml can be used.\n")


def main() -> None:
    """Check the names in params.yaml."""
    run()


if __name__ == "__main__":
    cli.run(main)
