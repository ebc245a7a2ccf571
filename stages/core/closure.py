"""The code that computes a result: the modules of this project that a module imports, and a digest of each."""

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

PACKAGES = ("flows", "stages", "models")
PLUMBING = frozenset(f"stages.core.{name}" for name in ("cli", "closure", "items", "params", "tracking", "workers"))
"""Modules that move results about and change none: a change there makes no item stale."""
PLUMBING |= {"models.methods"}  # names of methods: one more changes no other


@cache
def import_closure(module: str) -> dict[str, str]:
    """Every module of this project that ``module`` imports, itself included, with a digest of its code.

    Follows import statements in the source (also those inside functions); ``PLUMBING`` is left out. Comments,
    docstrings and layout are no part of the digest: better words cost no computation.
    """
    seen: dict[str, str] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        if not name or name in seen or name in PLUMBING:
            continue
        source = _source(name)
        if source is None:
            continue
        seen[name] = code_digest(source)
        queue.append(name.rpartition(".")[0])  # importing a.b runs a/__init__.py
        queue.extend(imported_modules(source, package=name.rpartition(".")[0]))
    return dict(sorted(seen.items()))


def code_digest(source: bytes) -> str:
    """sha256 of what Python makes of ``source``, docstrings left out."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            # Also a string under an assignment, which documents it.
            node.body = [statement for statement in body if not _is_string(statement)] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def imported_modules(source: bytes, *, package: str) -> list[str]:
    """Modules of this project named by the import statements of ``source``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                raise ValueError(f"relative import in {package}: this project's imports are absolute")
            found.append(base)
            found += [f"{base}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] in PACKAGES and _source(name) is not None]


@cache
def _source(module: str) -> bytes | None:
    specification = importlib.util.find_spec(module) if _parent_exists(module) else None
    if specification is None or not specification.origin or not specification.origin.endswith(".py"):
        return None
    return Path(specification.origin).read_bytes()


def _parent_exists(module: str) -> bool:
    # find_spec imports the parent; `stages.core.datasets.labels.A2D` has a parent that is no package.
    parent = module.rpartition(".")[0]
    if not parent:
        return True
    specification = importlib.util.find_spec(parent) if _parent_exists(parent) else None
    return specification is not None and specification.submodule_search_locations is not None


def _is_string(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
