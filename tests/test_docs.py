"""The documents agree with the code: their links, commands, rules, files and tests exist, and their lists are complete."""

import importlib
import re
from pathlib import Path
from typing import get_args

import pytest
import typer
import yaml

import mousefacelift
from mousefacelift.cli import app
from mousefacelift.config.center import Center
from mousefacelift.config.config import Config
from mousefacelift.config.normalize import Normalize
from mousefacelift.config.presets import PRESETS
from mousefacelift.evaluation.baselines.registry import BASELINES, ON_REQUEST
from mousefacelift.evaluation.conditions import CONDITIONS
from mousefacelift.evaluation.framings import FRAMINGS
from mousefacelift.evaluation.metrics.registry import METRICS
from mousefacelift.evaluation.variants import VARIANTS
from mousefacelift.geometry.subject_size import LARGER
from mousefacelift.recordings.masks.registry import FORMS as FORMS_OF_MASKS
from mousefacelift.recordings.silhouettes.registry import METHODS
from mousefacelift.rigs.registry import FORMATS
from mousefacelift.shards.exports.registry import EXPORTS
from support.paths import ROOT

PACKAGE = ROOT / "workflow" / "mousefacelift"
CONFIGURATION = ROOT / "config" / "README.md"
EXAMPLE = "tally"  # the stage that CONTRIBUTING.md adds
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", CONFIGURATION, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(rf"{FENCE.pattern}|^(?:    .*\n)+|`[^`\n]+`", re.MULTILINE | re.DOTALL)

# What is named below other folders the workflow writes, or is an example's.
FOLDERS = {base: {path.name for path in base.glob("[!.]*/")} - {"results"} for base in (ROOT, PACKAGE)}

page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def code(path: Path) -> str:
    """A page's blocks and spans of code, one after the other, a command that goes on in the next line as one line."""
    return "\n".join(CODE.findall(path.read_text(encoding="utf-8"))).replace("\\\n", "")


def anchors(path: Path) -> set[str]:
    """A page's headings as GitHub makes them addresses."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(name: str, beginning: str) -> list[list[str]]:
    """The cells of the first table after a line of a page that begins so, without its head."""
    found = re.search(
        rf"^{re.escape(beginning)}.*?^\|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)",
        (ROOT / "docs" / name).read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert found, f"docs/{name}: no table after '{beginning}'"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()]


def rules() -> set[str]:
    files = [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")]
    return {
        rule for file in files for rule in re.findall(r"^rule (\w+):", file.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_the_readme_fits_a_screen_or_two():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 800


@page
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8"))):
        if not target.startswith("https://"):
            file, _, anchor = target.partition("#")
            found = (path.parent / file).resolve() if file else path
            assert found.exists(), f"{target}: no such file"
            assert not anchor or anchor in anchors(found), f"{target}: no such heading"


@page
def test_every_command_exists(path):
    commands = typer.main.get_command(app).commands
    for command, word in re.findall(r"\bmousefacelift ([a-z][a-z-]*)(?: ([a-z]+)\b)?", code(path)):
        if command == EXAMPLE:
            continue
        assert command in commands, f"mousefacelift {command}"
        groups = getattr(commands[command], "commands", None)
        assert groups is None or word in groups, f"mousefacelift {command} {word}"


@page
def test_every_target_of_snakemake_is_a_rule(path):
    for targets in re.findall(r"\bsnakemake --cores \w+((?: [a-z_]+\b)*)", code(path)):
        assert set(targets.split()) <= rules() | {EXAMPLE}


@page
def test_every_file_and_test_that_a_page_names_exists(path):
    for file, test in re.findall(r"\b((?:[a-z_]+/)+[a-z_]+\.(?:py|smk|yaml|json|tsv|txt))(?:::(\w+))?", code(path)):
        if EXAMPLE in file:
            continue
        bases = [base for base in (ROOT, PACKAGE) if file.partition("/")[0] in FOLDERS[base]]
        found = next((base / file for base in bases if (base / file).exists()), None)
        assert found or not bases, f"{file}: no such file"
        assert not test or f"def {test}(" in found.read_text(encoding="utf-8"), f"{file}: no test {test}"


def test_every_page_can_be_found_from_the_readme():
    linked = re.findall(r"\]\((docs/\w+\.md)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(linked) == {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}


def test_the_tree_of_the_design_is_the_packages():
    (tree,) = re.findall(
        r"^```\n(cli/ .*?)^```$", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.M | re.S
    )
    named, parent = [], ""
    for indent, name in re.findall(r"^( *)([\w.]+)/? ", tree, re.MULTILINE):
        parent = parent if indent else name
        named.append(f"{parent}/{name}" if indent else name)
    there = [*PACKAGE.glob("*.py"), *PACKAGE.glob("*/"), *PACKAGE.glob("*/*/")]
    assert sorted(named) == sorted(str(path.relative_to(PACKAGE)) for path in there if not path.name.startswith("__"))


def test_the_stages_are_the_sections_of_the_configuration_and_the_rows_of_the_readme():
    rows = [row[0].strip("`") for row in table("../README.md", "## Stages")]
    assert rows == [name for name in Config.model_fields if name in mousefacelift.STAGE_VERSIONS]
    assert all((ROOT / "rules" / f"{name}.smk").exists() for name in rows)


def test_the_list_of_calibration_formats_is_the_registry():
    listed = {row[0].strip("`"): row[2] == "yes" for row in table("calibration.md", "## Formats")}
    assert listed == {name: each.write is not None for name, each in FORMATS.items()}


@pytest.mark.parametrize(
    ("name", "heading", "there"),
    [
        ("captures.md", "**Silhouettes** come from one of these methods.", METHODS),
        ("captures.md", "### Masks made elsewhere", FORMS_OF_MASKS),
        (
            "captures.md",
            "Masks that hold something else stop the run",
            get_args(Center.model_fields["masks_are"].annotation),
        ),
        ("shards.md", "`export` writes", EXPORTS),
        ("training.md", "## Presets", PRESETS),
        ("results.md", "## Metrics", METRICS),
        ("results.md", "Baselines stand beside the model:", BASELINES | ON_REQUEST),
        ("results.md", "## `poc`", CONDITIONS),
        ("results.md", "### Framings", FRAMINGS),
        ("results.md", "## `ablation`", VARIANTS),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_the_tables_of_methods_list_the_registries(name, heading, there):
    assert [row[0].strip("`") for row in table(name, heading)] == list(there)


def test_the_metrics_are_called_what_tables_call_them():
    assert [row[1] for row in table("results.md", "## Metrics")] == [metric.title for metric in METRICS.values()]


def facelift_settings(text):
    """The sections that a text prescribes for FaceLift's weights, of the first `normalize: {...}` and `train: {...}` in it."""
    _, _, after = text.partition("## FaceLift's weights")
    return {name: yaml.safe_load(re.search(rf"{name}: (\{{.*?\}})", after)[1]) for name in ("normalize", "train")}


def test_all_texts_prescribe_the_same_framing_for_facelifts_weights():
    readme, page = (facelift_settings((ROOT / name).read_text()) for name in ("README.md", "docs/training.md"))
    assert readme == page
    settings = Config.model_validate(readme).normalize
    framing = FRAMINGS["canonical"].changes
    assert {key: getattr(settings, key) for key in framing} == framing
    advice = f"normalize.distance: {settings.distance} with zoom: {settings.zoom}"
    assert LARGER.startswith(advice) and "normalize.zoom: fit" in LARGER and "`snakemake poc`" in LARGER
    meaning = Normalize.model_fields["zoom"].description
    assert f"for its weights with distance: {settings.distance}" in meaning


def test_what_the_package_calls_stable_is_there():
    stable = re.findall(r"^    mousefacelift\.([\w.]+)\.(\w+) ", mousefacelift.__doc__, re.MULTILINE)
    assert stable
    for module, name in stable:
        assert hasattr(importlib.import_module(f"mousefacelift.{module}"), name), f"{module}.{name}"
