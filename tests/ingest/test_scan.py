import shutil
from pathlib import Path

import pytest
from rich.console import Console

from starkiln import builders, pipeline, steps
from starkiln.curate.inspect import store
from starkiln.ingest.scan import STEPS, scan

RECIPE = 'extends = "tiny"\n'
ARTEFACT = {"manifest.json": "{}", "events.jsonl": "", "00000.parquet": "x"}


def write(root: Path, tree: dict[str, str]) -> Path:
    for name, text in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def paths(root: Path) -> list[str]:
    return [entry.path for entry in scan(root, [], 1000)]


@pytest.mark.parametrize("inner", ["", "kiln/", "a/b/kiln/"])
def test_what_a_run_makes_is_no_input_and_the_users_files_beside_it_are(tmp_path, inner):
    own = {"a.py": "", f"{inner}own.py": "", f"{inner}pyproject.toml": "[project]\n"}
    made = {".lock": "", "recipe.toml": RECIPE, "small.toml": "name = 'a'\n[[source]]\n"}
    made |= {f"report/{name}": "" for name in ("report.html", "report.json")}  # one without scores
    made |= {f".tokens.{state}/x.bin": "" for state in ("partial", "old")}
    made |= {"verdicts.json": "{}", ".audit.partial/x.json": "", ".audit.old/x.json": ""}
    for folder in ("documents", "decisions/languages", "checkpoint.before"):
        made |= {f"{folder}/{name}": text for name, text in ARTEFACT.items()}
    write(tmp_path, own | {inner + name: text for name, text in made.items()})
    assert paths(tmp_path) == sorted(own)


def test_folders_of_such_names_are_read_where_no_run_was(tmp_path):
    own = {"documents/a.md": "", "report/b.py": "", "recipe.toml": RECIPE, "x/.lock": ""}
    own |= {"x/tokens/c.py": "", "x/Cargo.toml": "[package]\nsource = 1\n"}
    own |= {"y/manifest.json": "{}", "y/verdicts.json": "{}", "audit/d.py": ""}
    with_source = {name: text for name, text in own.items() if "Cargo" not in name}
    write(tmp_path, with_source)
    assert paths(tmp_path) == sorted(with_source)


def test_an_artefact_that_is_asked_for_is_read(tmp_path):
    assert paths(write(tmp_path, ARTEFACT)) == sorted(ARTEFACT)


def test_a_virtual_environment_is_read_only_when_asked_for(tmp_path):
    inside = "lib/python3/site-packages/b.py"
    write(tmp_path, {"a.py": "", ".venv-dev/pyvenv.cfg": "", f".venv-dev/{inside}": ""})
    assert paths(tmp_path) == ["a.py"]
    assert paths(tmp_path / ".venv-dev") == [inside, "pyvenv.cfg"]
    assert paths(tmp_path / ".venv-dev/lib") == [inside.removeprefix("lib/")]


@pytest.mark.parametrize("inner", ["", "kiln"])
def test_a_source_that_holds_the_work_folder_stays_fresh(tmp_path, tmp_path_factory, inner):
    """The first three steps of a real run, whose work folder lies in its own source.

    What is labelled lies elsewhere, and what was decided by eye beside the recipe.
    """
    body = "".join(f"def f{k}(x):\n    return x + {k}\n" for k in range(9))
    write(tmp_path, {f"m{k}.py": f"# {k}\n{body}" for k in range(4)})
    recipe = tmp_path / inner / "kept.toml"
    labelled = tmp_path_factory.mktemp("labelled") / "labels.parquet"
    labelled.touch()
    settings = f"run.workers = 1\naudit.contamination = '{labelled}'\n"
    source = f"[[source]]\nuse = 'files'\npaths = ['{tmp_path}']\nlicences = ['MIT']\n"
    write(recipe.parent, {"kept.toml": f"{RECIPE}{settings}{source}"})
    found = pipeline.load(recipe).value
    with pipeline._lock(recipe.parent), builders.pool(found) as pool:
        for step in steps.chain(found, recipe)[:3]:
            pipeline.build(recipe.parent, step, found, pool, Console(quiet=True))
    store.change(recipe.parent / store.NAME, "documents", ("files", "x", "note"), "odd")
    states = pipeline.plan(recipe)
    assert [now.state for _, now in states][:4] == ["fresh", "fresh", "fresh", "missing"], states
    assert states[0][1].rows == 4
    assert {step.name.partition("/")[0] for step, _ in states} == set(STEPS)
    (recipe.parent / "documents").rename(tmp_path / "moved")
    assert pipeline.plan(recipe)[0][1].state == "missing"
    shutil.move(tmp_path / "moved", recipe.parent / "documents")
    write(tmp_path, {"m5.py": body})
    assert pipeline.plan(recipe)[0][1].state == "stale"
