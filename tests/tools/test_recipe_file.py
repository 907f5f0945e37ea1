"""Recipe files for exports, and their JSON schema."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import jsonschema
import pytest
from timmx.errors import ConfigurationError, TimmxError
from timmx.exporting.recipe import read_recipe, recipe_schema

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "digits" / "recipe.toml"


def test_the_published_schema_matches_the_options():
    published = json.loads((ROOT / "docs" / "recipe.schema.json").read_text("utf-8"))
    assert published == recipe_schema(), "write timmx.exporting.recipe_schema() to docs/recipe.schema.json"
    jsonschema.Draft202012Validator.check_schema(published)


def test_the_example_fits_both_schemas(run_timmx):
    recipe = tomllib.loads(EXAMPLE.read_text("utf-8"))
    printed = run_timmx("export", "--recipe-schema")
    assert printed.exit_code == 0
    installed = json.loads(printed.stdout)
    jsonschema.Draft202012Validator.check_schema(installed)
    for schema in (recipe_schema(), installed):
        jsonschema.validate(recipe, schema)
        jsonschema.validate(recipe | {"labels": [f"digit {number}" for number in range(10)]}, schema)
    recipe["target"][0]["dynamic_batsch"] = True
    jsonschema.validate(recipe, recipe_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe, installed)


def test_the_example_runs(export, run_timmx, digits, tmp_path):
    """With two samples of each class: verification on all takes most of the time."""
    few = shutil.copytree(digits.removeprefix("local-dir:"), tmp_path / "digits")
    recipe = shutil.copy(EXAMPLE, few)
    done = run_timmx("export", "--recipe", recipe, "-o", tmp_path / "made", "--json")
    assert done.exit_code == 0, done.stderr
    made = {Path(item["path"]).name: item for item in json.loads(done.stdout)["artifacts"]}
    assert made.keys() == {
        "digits.onnx",
        "digits.pt2",
        "digits.mlpackage",
        "digits.tflite",
        "digits-int8.tflite",
    }
    assert {item["verification"]["status"] for item in made.values()} == {"verified"}
    assert made["digits-int8.tflite"]["precision"] == "int8"
    assert made["digits.onnx"]["metadata"]["batch"] == {"dynamic": True}
    assert all(item["metadata"]["outputs"][0]["kind"] == "probabilities" for item in made.values())


def test_paths_are_relative_to_the_recipe_and_flags_override_it(export, run_timmx, tmp_path, digits):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "names.txt").write_text("\n".join(f"digit {number}" for number in range(10)))
    (tmp_path / "deep" / "recipe.toml").write_text(
        f'model = "{digits}"\noutput = "made"\nlabels = "names.txt"\nverify = false\nbatch_size = 2\n'
        '[[target]]\nformat = "torch-export"\n'
    )
    plain = run_timmx("export", "--recipe", "deep/recipe.toml", "--json")
    assert plain.exit_code == 0, plain.stderr
    (made,) = json.loads(plain.stdout)["artifacts"]
    assert Path(made["path"]) == Path("deep/made/digits.pt2")
    assert made["metadata"]["labels"][3] == "digit 3"
    assert made["metadata"]["batch"] == {"size": 2}
    assert made["verification"]["status"] == "skipped"
    other = run_timmx(
        "export", "--recipe", "deep/recipe.toml", "--verify", "--batch-size", "3", "-o", "here", "--json"
    )
    (made,) = json.loads(other.stdout)["artifacts"]
    assert Path(made["path"]) == Path("here/digits.pt2")
    assert made["metadata"]["batch"] == {"size": 3}
    assert made["verification"]["status"] == "verified"


def test_a_recipe_can_contain_class_names(export, run_timmx, tmp_path, digits):
    (tmp_path / "recipe.toml").write_text(
        f'model = "{digits}"\noutput = "made"\nverify = false\nlabels = ["zero", "one", "two", "three", "four", '
        '"five", "six", "seven", "eight", "nine"]\n[[target]]\nformat = "torch-export"\n'
    )
    done = run_timmx("export", "--recipe", "recipe.toml", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["artifacts"][0]["metadata"]["labels"][3] == "three"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = ", "is not valid TOML"),
        ("modle = 'resnet18'", "did you mean model"),
        ("batch-size = 2", "did you mean batch_size"),
        ("target = 'x'", r"\[\[target\]\]"),
        ("model = 3", "model is 3, not a name in quotes"),
        ("json = true", "has no option 'json'"),
    ],
)
def test_an_invalid_recipe_is_refused(text, said, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        read_recipe(file)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("opset = 18", 'hint: add format = "FORMAT"'),
        ("format = 'onnx'\nopsett = 18", "did you mean opset"),
        ("format = 'onnx'\nopset = 'many'", "opset='many'"),
        ("format = 'no-such'", "no-such"),
    ],
)
def test_an_invalid_target_is_refused(run_timmx, target, said, tmp_path, digits):
    (tmp_path / "recipe.toml").write_text(f'model = "{digits}"\n[[target]]\n{target}\n')
    done = run_timmx("export", "--recipe", "recipe.toml", "-o", "out")
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_recipe_is_reported(tmp_path):
    with pytest.raises(TimmxError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
