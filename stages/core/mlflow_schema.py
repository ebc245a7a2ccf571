"""Which schema the installed MLflow wants of its database, found without the seconds that importing it takes."""

import importlib.util
import re
from pathlib import Path


def newest() -> str:
    """The newest revision of the installed MLflow's migrations: the one that no other builds on."""
    package = importlib.util.find_spec("mlflow")  # finds it without the seconds that importing it takes
    assert package is not None and package.origin is not None
    scripts = (Path(package.origin).parent / "store" / "db_migrations" / "versions").glob("*.py")
    text = "\n".join(script.read_text() for script in scripts)
    revisions = set(re.findall(r"^revision = [\"'](\w+)", text, re.MULTILINE))
    return (revisions - set(re.findall(r"^down_revision = [\"'](\w+)", text, re.MULTILINE))).pop()
