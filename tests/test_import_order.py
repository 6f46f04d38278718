"""Imports run one way through the folders of `pipeline/`, and each framework stays in its own folder.

Every import counts: at the top of a file, inside a function, and under TYPE_CHECKING.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the ground up. Folders on one line do not import each other.
ORDER = (
    {"utils"},
    {"recipe", "distributed"},
    {"data", "metrics"},
    {"backend"},
    {"tasks"},
    {"models"},
    {"pytorch", "tensorflow"},
    {"runs"},
    {"training"},
    {"comparison"},
    {"reporting"},
    {"api"},
    {"deploy"},
    {"tour", "sweeps"},
    {"cli"},
    {"pipeline"},  # pipeline/__init__.py and __main__.py
)
MOST_FILES = 14
# Folders that may have more, with the reason.
LARGER = {
    "pipeline/pytorch": (
        20,
        "export.py and graphs.py are for deployment, tour.py for the tour, library.py for versions",
    ),
    "pipeline/tensorflow": (19, "the same files as PyTorch, without library.py"),
}
HOME = {"torch": "pytorch", "accelerate": "pytorch", "tensorflow": "tensorflow", "tf_keras": "tensorflow"}
# Files that import a module by a name made at run time, with the reason.
DYNAMIC = {
    "pipeline/__init__.py": "public names are looked up when they are asked for",
    "pipeline/backend.py": "a framework is loaded by its name",
    "pipeline/tasks/base.py": "a task is loaded by its name in the recipe",
    "pipeline/metrics/specs.py": "a metric is loaded by its name in the recipe",
    "pipeline/deploy/runtimes.py": "a runtime is loaded by the format's name, in a process that has no other framework",
    "pipeline/pytorch/library.py": "a module of transformers is loaded by the name that it has in its version",
    "pipeline/models/attention.py": "an attention class of the user's own is loaded by module:Class",
    "pipeline/training/trackers/base.py": "the client of a tracker is a package that need not be installed",
    "pipeline/recipe/loading.py": "a recipe's Python file is executed",
}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted((ROOT / "pipeline").rglob("*.py"))}


def folder_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else "pipeline"


def imported(path):
    """Every name that a file imports: modules, and names in modules, which may be modules too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edges():
    """(importing module, imported module) inside `pipeline`; importing from a package counts as importing it."""
    return {
        (name, target)
        for name, path in MODULES.items()
        for target in imported(path)
        if target in MODULES and target != name
    }


def against_the_order(pairs):
    rank = {name: i for i, names in enumerate(ORDER) for name in names}
    return sorted(
        f"{source} imports {target}"
        for source, target in pairs
        if folder_of(source) != folder_of(target) and rank[folder_of(target)] >= rank[folder_of(source)]
    )


def circle(pairs):
    """Modules that import each other in a circle, or none."""
    targets = {}
    for source, target in pairs:
        targets.setdefault(source, set()).add(target)
    while leaves := {target for found in targets.values() for target in found if target not in targets} | {
        source for source, found in targets.items() if not found
    }:
        targets = {
            source: {target for target in found if target not in leaves}
            for source, found in targets.items()
            if source not in leaves
        }
    return sorted(targets)


def test_imports_run_one_way_through_the_folders():
    assert against_the_order(edges()) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circle(edges()) == []


@pytest.mark.parametrize(
    "pair",
    [
        ("pipeline.data.batches", "pipeline.tasks.base"),
        ("pipeline.pytorch.model", "pipeline.tensorflow.model"),
        ("pipeline.utils.files", "pipeline.backend"),
        ("pipeline.runs.record", "pipeline"),
    ],
)
def test_an_import_against_the_order_would_be_seen(pair):
    assert against_the_order([pair])


def test_a_circle_would_be_seen():
    assert circle([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]) == ["a", "b", "c"]
    assert circle([("a", "b"), ("b", "c"), ("a", "c")]) == []


def test_every_folder_has_its_place_in_the_order():
    assert {folder_of(module) for module in MODULES} <= set.union(*ORDER)


def test_no_folder_has_more_files_than_a_reader_can_survey():
    folders = {path.parent for path in MODULES.values()}
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    crowded = {name: size for name, size in sizes.items() if size > MOST_FILES}
    assert crowded == {name: size for name, (size, _) in LARGER.items()}


def test_each_framework_is_imported_in_its_own_folder_only():
    strays = [
        f"{path.relative_to(ROOT)}: {name}"
        for module, path in MODULES.items()
        for name in imported(path)
        if (home := HOME.get(name.partition(".")[0])) and folder_of(module) != home
    ]
    assert strays == []


def test_modules_are_imported_by_a_made_up_name_only_where_there_is_a_reason():
    makers = ("import_module", "__import__", "spec_from_file_location")
    found = {
        str(path.relative_to(ROOT))
        for path in MODULES.values()
        if any(maker in path.read_text(encoding="utf-8") for maker in makers)
    }
    assert found == set(DYNAMIC)
