"""The house itself: imports go one way, functions stay short, README's line counts are true."""
import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.quick

# Each may import what stands before it. data/ is used from t2l upwards, and itself uses utils only.
ORDER = ["utils", "lora", "mistral", "encoder", "t2l", "eval", "train", "experiments"]
PATH = ["lora.py", "mistral.py", "t2l.py", "train.py", "eval.py"]        # the reading, in a way
MAY_IMPORT = {part: set(ORDER[:i]) for i, part in enumerate(ORDER)}
for part in ORDER[ORDER.index("t2l"):]:
    MAY_IMPORT[part].add("data")
MAY_IMPORT["data"] = {"utils", "data"}
MAY_IMPORT["utils"].add("utils")                                         # and each other
MAY_IMPORT["experiments"].add("experiments")
MAY_IMPORT["demo"] = {"utils", "lora", "mistral", "encoder", "t2l"}      # and nobody imports it

# (module, what it imports inside a function): why.
LATE_IMPORTS: dict[tuple[str, str], str] = {}

# module → the project's modules that it imports, and whether inside a function
Found = dict[str, list[tuple[str, bool]]]


def sources(root: Path) -> dict[str, Path]:
    """{"utils.cli": its file}: all of the project but the tests."""
    files = [*root.glob("*.py"), *(file for part in ("utils", "data", "experiments")
                                   for file in (root / part).rglob("*.py"))]
    return {".".join(f.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): f
            for f in files}


def project_imports(root: Path) -> Found:
    """What every module imports of the project; `from data import generate` is data.generate."""
    modules = sources(root)
    tops, found = {name.split(".")[0] for name in modules}, {}
    for name, file in modules.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        late = {node for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for node in ast.walk(function)}
        found[name] = []
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{name}: a relative import"
                names = [f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in modules
                         else node.module for alias in node.names]
            found[name] += [(other, node in late) for other in names
                            if other.split(".")[0] in tops]
    return found


def wrong_ways(found: Found) -> list[str]:
    wrong = []
    for name, others in found.items():
        part = name.split(".")[0]
        if part not in MAY_IMPORT:
            wrong.append(f"{name} has no place in ORDER")
            continue
        wrong += [f"{name} imports {other}" for other, _ in others
                  if other.split(".")[0] not in MAY_IMPORT[part]]
        if name == "data.tasks":
            wrong += [f"{name} imports {other}" for other, _ in others if other.startswith("data")]
    return wrong


def circles(found: Found) -> list[list[str]]:
    """Ways of a module back to itself."""
    def walk(name: str, way: list[str]) -> list[list[str]]:
        if name in way:
            return [way[way.index(name):] + [name]]
        if name in finished:
            return []
        ways = [w for other, _ in found.get(name, []) for w in walk(other, [*way, name])]
        finished.add(name)
        return ways
    finished: set[str] = set()
    return [way for name in found for way in walk(name, [])]


def late_imports(found: Found) -> set[tuple[str, str]]:
    return {(name, other) for name, others in found.items() for other, late in others if late}


def test_imports_go_one_way_without_circles():
    found = project_imports(ROOT)
    assert len(found) > 30 and ("t2l", False) in found["eval"]                # it has read them
    assert wrong_ways(found) == [] and circles(found) == []


def test_no_import_hides_in_a_function():
    assert late_imports(project_imports(ROOT)) == set(LATE_IMPORTS)


def test_a_wrong_import_is_noticed(tmp_path):
    """The three checks themselves, on a small house in which everything is wrong."""
    for part in ("utils", "data", "experiments"):
        (tmp_path / part).mkdir()
    for file, text in {"utils/files.py": "import utils.cli",
                       "data/tasks.py": "from data import suite",
                       "utils/cli.py": "def f():\n    from utils.files import read_json",
                       "data/suite.py": "import lora", "lora.py": "import torch, mistral",
                       "mistral.py": "from experiments.plots import table", "page.py": "import t2l",
                       "eval.py": "import demo", "demo.py": "import t2l",
                       "experiments/plots.py": "import train", "train.py": "import t2l",
                       "t2l.py": "from data.tasks import Task"}.items():
        (tmp_path / file).write_text(text)
    found = project_imports(tmp_path)
    assert set(wrong_ways(found)) == {
        "data.tasks imports data.suite", "data.suite imports lora", "lora imports mistral",
        "mistral imports experiments.plots", "page has no place in ORDER", "eval imports demo"}
    assert {"utils.files", "utils.cli"} in map(set, circles(found))
    assert late_imports(found) == {("utils.cli", "utils.files")}


# ---------------------------------------------------------------------------------- lengths

def too_long(files: list[Path], lines_each: int) -> list[str]:
    """Functions and methods of more lines than that, their decorators not counted."""
    return [f"{file.name}: {node.name}, {node.end_lineno - node.lineno + 1} lines"
            for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= lines_each]


def line_count(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_functions_of_the_path_fit_a_screen_and_all_of_it_an_evening(tmp_path):
    files = [ROOT / name for name in PATH]
    assert too_long(files, 50) == []
    assert sum(map(line_count, files)) <= 1600
    for lines, said in ((50, []), (51, ["a.py: f, 51 lines"])):
        (tmp_path / "a.py").write_text("class A:\n    @property\n    def f(self):\n"
                                       + (lines - 1) * "        1\n")
        assert too_long([tmp_path / "a.py"], 50) == said


def test_no_line_is_longer_than_100_columns():
    files = [*sources(ROOT).values(), *(ROOT / "tests").glob("*.py")]
    assert [f"{file.relative_to(ROOT)}:{i}" for file in files for i, line in
            enumerate(file.read_text(encoding="utf-8").splitlines(), 1) if len(line) > 100] == []


def stated_counts(readme: str) -> dict[str, int]:
    """{"lora.py": 119} of the rows | `lora.py` | 119 | … of README.md."""
    rows = re.findall(r"^\| *`([\w/]+\.py)` *\| *([\d,]+) *\|", readme, re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows}


def test_the_line_counts_in_the_readme_are_right():
    stated = stated_counts((ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(PATH) <= stated.keys()
    assert stated == {name: line_count(ROOT / name) for name in stated}
    assert stated_counts("| `a.py` | 1,119 | x |\n| `b/c.py` | 7 |\n| `d` | 3 |") == {
        "a.py": 1119, "b/c.py": 7}


@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="no git here")
def test_the_repository_has_at_most_200_files():
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 50 < len(done.stdout.splitlines()) <= 200
