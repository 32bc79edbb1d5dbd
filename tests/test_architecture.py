"""House rules that a reader would otherwise have to remember."""

import ast
import subprocess
import sys

from tests.conftest import ROOT

LAYERS = [
    {"progress", "_lanes", "_rasterize_gsplat"},
    {"codec", "_rasterize_numba", "_query_triton"},
    {"_codes_numba", "metrics"},
    {"scene"},
    {"rasterize", "cameras", "masks", "sam", "encoders", "hub", "sfm"},
    {"capture", "train", "features", "language", "query"},
    {"build", "official"},
    {"evaluate"},
    {"__main__"},
]
# A stage may read the record that another stage hands it.
ALLOWED_SIDEWAYS = {
    ("language", "features"),
    ("train", "capture"),
    ("official", "build"),  # an imported scene is finished as a built one
    ("encoders", "hub"),  # one way to fetch weights, and to tell that there is no network
    ("sam", "hub"),
    ("masks", "sam"),  # one registry of segmenters
}


def imports_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def test_imports_inside_langsplat_point_one_way() -> None:
    level = {name: index for index, layer in enumerate(LAYERS) for name in layer}
    files = {path.stem for path in (ROOT / "langsplat").glob("*.py")} - {"__init__"}
    assert files == set(level), "every module has its place in LAYERS"
    for name in files:
        for target in imports_of(f"langsplat/{name}.py"):
            module = target.removeprefix("langsplat.")
            if target == module or module not in level or (name, module) in ALLOWED_SIDEWAYS:
                continue
            assert level[module] < level[name], f"{name} must not import {module}"


def test_the_library_knows_nothing_of_the_page() -> None:
    for path in (ROOT / "langsplat").glob("*.py"):
        names = imports_of(f"langsplat/{path.name}")
        assert not any(name.split(".")[0] in ("gradio", "demo") for name in names), path.name


def test_the_page_uses_public_names_only() -> None:
    for path in (ROOT / "demo").glob("*.py"):
        for name in imports_of(f"demo/{path.name}"):
            parts = name.split(".")
            assert parts[0] != "langsplat" or not any(part.startswith("_") for part in parts), name


def test_importing_the_library_loads_nothing_heavy() -> None:
    heavy = ["numba", "gsplat", "open_clip", "gradio", "skimage", "pycolmap", "torchvision"]
    code = (
        "import sys, langsplat, langsplat.scene, langsplat.query, langsplat.encoders, "
        "langsplat.masks, langsplat.sam, langsplat.capture, langsplat.build\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"


def test_the_tree_stays_small_enough_to_hold_in_mind() -> None:
    files = [*(ROOT / "langsplat").glob("*.py"), *(ROOT / "demo").glob("*.py")]
    files = [file for file in files if file.stat().st_size]  # an empty one holds nothing
    assert len(files) <= 29
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    for name in tracked.stdout.split():
        path = ROOT / name
        assert not path.is_file() or path.stat().st_size <= 10_000_000, f"{name} is over 10 MB"


def test_the_changelog_begins_with_the_version() -> None:
    import langsplat

    headings = [
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    ]
    assert langsplat.__version__ in headings[0]


def run_tool(*command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_programs_that_use_the_library_see_its_types() -> None:
    assert (ROOT / "langsplat/py.typed").is_file()  # PEP 561


def test_ruff_finds_nothing() -> None:
    run_tool("ruff", "check", ".")


def test_the_code_is_formatted() -> None:
    run_tool("ruff", "format", "--check", ".")


def test_mypy_finds_nothing() -> None:
    run_tool("mypy")
