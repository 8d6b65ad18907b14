import json
import re

import pytest
import yaml
from pydantic import BaseModel

from mousefacelift.base.errors import UserError
from mousefacelift.cli.configuration import choices
from mousefacelift.config.config import Config
from mousefacelift.config.documents import TABLE, TOP, json_schema, with_tables
from mousefacelift.config.reading import load_config, load_yaml, section_json, validate
from mousefacelift.config.train import Train
from mousefacelift.recordings.silhouettes.registry import METHODS
from support.paths import ROOT


def error(values, model=Config):
    with pytest.raises(UserError) as caught:
        validate(model, values, "my.yaml")
    return str(caught.value)


def is_section(annotation):
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def fields(model=Config, path=()):
    """Every key of the configuration, as the names that lead to it, and its field."""
    for name, field in model.model_fields.items():
        if is_section(field.annotation):
            yield from fields(field.annotation, (*path, name))
        else:
            yield (*path, name), field


def test_the_schema_file_is_the_one_the_model_generates():
    assert (ROOT / "config" / "schema.json").read_text() == json_schema(choices()), (
        "config/schema.json has drifted: run `mousefacelift schema > config/schema.json`"
    )


def test_the_schema_says_what_the_model_says():
    schema = json.loads(json_schema(choices()))
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["properties"]) == set(Config.model_fields)
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False, "a misspelt key would pass Snakemake's own check"
    assert schema["$defs"]["Train"]["properties"]["preset"]["enum"] == ["tiny", "small", "base"]
    assert schema["$defs"]["Center"]["properties"]["masks"]["enum"] == list(METHODS), "names that register themselves"


def test_the_tables_of_keys_are_those_the_model_generates():
    text = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    assert text == with_tables(text, choices()), (
        "config/README.md has drifted: run `mousefacelift schema --tables config/README.md`"
    )
    sections = [name for name, field in Config.model_fields.items() if is_section(field.annotation)]
    assert [section for _, section, _ in TABLE.findall(text)] == [TOP, *sections]


def test_a_table_lists_each_key_with_its_default_values_and_meaning():
    text = with_tables("a\n<!-- keys of shard -->\nold\n<!-- end of keys -->\nb\n", choices())
    assert text.startswith(
        "a\n<!-- keys of shard -->\n| key | default | values | meaning |\n|---|---|---|---|\n| `tar_codec` | `png` |"
    )
    assert "\n| `h5_level` | `null` | integer ≥ 0, ≤ 9, `null` | compression level of " in text
    assert text.endswith("|\n<!-- end of keys -->\nb\n")
    rows = with_tables("<!-- keys of sample -->\n<!-- end of keys -->", choices()).splitlines()
    assert rows[-4].startswith("| `fractions.train` | `0.8` | number ≥ 0, ≤ 1 | share of train")
    with pytest.raises(UserError, match="the configuration has no section 'shrad'"):
        with_tables("<!-- keys of shrad -->\n<!-- end of keys -->", choices())


def test_every_key_has_a_meaning():
    for key, field in fields():
        assert field.description, f"{'.'.join(key)} has no description"
        assert "|" not in field.description, f"{'.'.join(key)}: a bar would end the table's cell"


def test_the_shipped_configuration_is_valid_and_uses_the_demo():
    config = load_config(ROOT / "config" / "config.yaml")
    assert config.normalize.zoom == "fit"
    table = (ROOT / config.captures).read_text().splitlines()
    rows = [line for line in table if line.strip() and not line.startswith("#")]
    assert len(rows) == 1, "config/captures.tsv ships with a header and without rows"


def test_an_empty_file_is_the_default_configuration(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("# nothing\n")
    assert load_config(path) == Config()
    assert Config().normalize.zoom == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"centre": {}}, "my.yaml: unknown key 'centre': did you mean 'center'?"),
        ({"center": {"strid": 2}}, "my.yaml: unknown key 'center.strid': did you mean 'stride'?"),
        ({"train": {"loss": {"l1": 1}}}, "unknown key 'train.loss.l1': did you mean 'l2'?"),
        ({"sample": {"fractions": {"training": 1}}}, "unknown key 'sample.fractions.training': did you mean 'train'?"),
        ({"shard": {"zzz": 1}}, "unknown key 'shard.zzz': valid keys here: tar_codec, tar_level, h5_codec, h5_level"),
        ({"str": 1}, "my.yaml: unknown key 'str': "),
        ({"train": {"int": 1}}, "unknown key 'train.int': "),
        ({"train": {"a[0]": 1}}, "unknown key 'train.a[0]': "),
        ({"center": {"stride": 0}}, "center.stride: Input should be greater than or equal to 1 (found 0)"),
        ({"center": {"stride": "two"}}, "center.stride: Input should be a valid integer"),
        ({"center": None}, "center: Input should be a valid dictionary"),
        ({"center": {"blob_fraction": 1.5}}, "center.blob_fraction: Input should be less than or equal to 1 (found 1.5)"),
        ({"normalize": {"image_size": 500}}, "normalize.image_size: Input should be a multiple of 8 (found 500)"),
        ({"normalize": {"up_axis": "z"}}, "normalize.up_axis: is neither an axis (+x, -x, +y, -y, +z, -z) nor a direction"),
        ({"normalize": {"zoom": 0}}, "normalize.zoom: Input should be greater than or equal to 0.05 (found 0)"),
        ({"normalize": {"zoom": "fill"}}, "normalize.zoom: Input should be 'fit' (found 'fill')"),
        ({"sample": {"frames": 0}}, "sample.frames: Input should be greater than or equal to 1 (found 0)"),
        ({"sample": {"fractions": {"train": 0.5}}}, "sample.fractions: train + val + test must be 1, found 0.7"),
        ({"train": {"run": "../demo"}}, "train.run: String should match pattern"),
        ({"sample": {"split": "animal", "stratify": True}}, "sample: stratify: true is for split: block; split is animal"),
        ({"sample": {"select": "diverse"}}, "sample: select: diverse chooses among more frames than it keeps: set frames"),
        ({"sample": {"allow_clipped": True}}, "unknown key 'sample.allow_clipped': valid keys here: "),
        ({"sample": {"max_cut": 3}}, "sample.max_cut: Input should be less than or equal to 1 (found 3)"),
        ({"normalize": {"image_size": 320}, "train": {"image_size": 128}}, "train.image_size (128) must divide normalize."),
        ({"captures": 3}, "captures: Input should be a valid string (found 3)"),
        ([], "my.yaml: (top level): Input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_its_full_key(values, message):
    assert message in error(values)


def test_every_problem_is_listed_once():
    lines = error({"center": {"strid": 2, "margin_px": 1}, "normalize": {"zoom": "fill"}}).splitlines()
    assert len(lines) == 4, "both branches of zoom's union and the two of center"
    assert len(set(lines)) == 4


@pytest.mark.parametrize("views", [1, 2, 3])
def test_fewer_than_four_input_views_must_be_meant(views):
    message = error({"train": {"num_input_views": views}})
    assert f"train: num_input_views is {views}: trained with fewer than 4 inputs" in message
    assert "i_know: true" in message
    assert Train(num_input_views=views, i_know=True).num_input_views == views
    assert Train(num_input_views=4).num_input_views == 4


def test_fractions_may_be_written_with_rounding():
    validate(Config, {"sample": {"fractions": {"train": 0.7, "val": 0.2, "test": 0.1}}}, "x")
    validate(Config, {"sample": {"fractions": {"train": 1, "val": 0, "test": 0}}}, "x")
    assert "must be 1, found 0.99" in error({"sample": {"fractions": {"train": 0.79}}})


def test_values_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().center.stride = 2


def test_a_section_has_one_text_however_it_was_written():
    one = validate(Config, yaml.safe_load("train: {steps: 10, learning_rate: 1e-3, loss: {l2: 1}}"), "x").train
    two = validate(Config, yaml.safe_load("train: {loss: {l2: 1.0}, learning_rate: 0.001, steps: 10}"), "x").train
    text = section_json(one)
    assert text == section_json(two)
    assert not re.search(r"\s", text)
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert validate(Config, {"train": json.loads(text)}, "x").train == one
    assert section_json(validate(Config, {"train": {"steps": 11}}, "x").train) != section_json(Train())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"center: {stride: 2", "not valid YAML: "),
        (b"a: 1\n\tb: 2", "not valid YAML: "),
        (b"\xff\xfe\xfa", "not valid YAML: "),
        (b"- center\n- cameras", "expected `key: value` lines, found a list"),
        (b"center", "expected `key: value` lines, found a str"),
    ],
)
def test_what_is_no_mapping_in_yaml_is_one_line_naming_the_file(tmp_path, content, message):
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: {message}") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_missing_configuration_file_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/my.yaml: no such configuration file"):
        load_config(tmp_path / "my.yaml")
    with pytest.raises(UserError, match=f"{tmp_path}: not a readable file"):
        load_config(tmp_path)


def test_the_file_is_named_in_errors_about_its_values(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("center: {stride: 0}")
    with pytest.raises(UserError, match=rf"^{path}: center\.stride: "):
        load_config(path)


def pins(lines):
    return dict(re.fullmatch(r"\s*-?\s*([\w.-]+)==(\S+)", line).groups() for line in lines if "==" in line)


def test_the_environment_without_torch_pins_what_the_constraints_pin():
    constraints = pins((ROOT / "envs" / "constraints.txt").read_text().splitlines())
    *_, pip = yaml.safe_load((ROOT / "envs" / "prep.yaml").read_text())["dependencies"]
    pinned = pins(pip["pip"])
    assert len(pinned) == len(pip["pip"]), "a package of envs/prep.yaml has no pin"
    assert pinned == {package: constraints.get(package) for package in pinned}


@pytest.mark.parametrize("path", [key for key, _ in fields()], ids=".".join)
def test_every_key_is_documented_in_the_readme_of_the_configuration(path):
    text = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    section, name = path[0], path[-1]
    if len(path) > 1:
        found = re.search(rf"^## `?{section}`?\s*$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert found, f"config/README.md has no section '## {section}'"
        text = found[1]
    assert re.search(rf"`([\w.]+\.)?{name}`", text), f"{'.'.join(path)} is not documented"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"loss": {"l2": 0, "masked_l2": 0}}}, "all weights are 0"),
        ({"train": {"learning_rate": float("inf")}}, "train.learning_rate"),
        ({"train": {"seed": 2**70}}, "train.seed"),
        ({"train": {"gpus": -1}}, "train.gpus"),
        ({"train": {"preset": "tiny", "adapt": "last_n", "last_n": 7}}, "last_n is 7, but preset tiny has 4 layers"),
        ({"train": {"strategy": "fsdp", "optimizer": "adamw8bit"}}, "adamw8bit cannot be divided among GPUs"),
        ({"train": {"gpus": 2, "batch_size": 3}}, "batch_size 3 cannot be divided among 2 GPUs"),
        ({"results": "/"}, "results"),
        ({"results": ""}, "results"),
        ({"results": "a/{x}"}, "results"),
        ({"results": "~/results"}, "results"),
    ],
)
def test_values_that_would_fail_later_are_refused_now(values, message):
    assert message in error(values)
