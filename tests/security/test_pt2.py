"""A `.pt2` file runs no code: each way in that torch.export.load has, with a marker file, and damage of every kind."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timmx
import torch
from timmx.base import Reporter, reporting
from timmx.errors import ArtifactError
from timmx.registry import load
from timmx_torch_export import archive as archive_module, runner as runner_module
from timmx_torch_export.checks import check_arguments
from timmx_torch_export.expressions import InvalidExpression, clean_expression

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"


class _Opens:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self):
        return open, (self._path, "w")


class Attack:
    """The parts of a `.pt2` file, to change and to write as another file."""

    def __init__(self, source: Path, folder: Path) -> None:
        with zipfile.ZipFile(source) as file:
            self.members = {name.partition("/")[2]: file.read(name) for name in file.namelist()}
        self.model: dict[str, Any] = json.loads(self.members[MODEL])
        self.weights: dict[str, Any] = json.loads(self.members[WEIGHTS])
        self.constants: dict[str, Any] = json.loads(self.members[CONSTANTS])
        self.marker, self._folder = folder / "marker", folder

    @property
    def graph(self) -> dict[str, Any]:
        return self.model["graph_module"]["graph"]

    @property
    def code(self) -> str:
        """Python code that creates the marker."""
        return f"__import__('pathlib').Path({str(self.marker)!r}).touch()"

    def pickle(self) -> bytes:
        return pickle.dumps(_Opens(self.marker), 2)

    def torch_pickle(self) -> bytes:
        buffer = io.BytesIO()
        torch.save(_Opens(self.marker), buffer)
        return buffer.getvalue()

    def write(self, **options: Any) -> Path:
        self.members |= {
            MODEL: json.dumps(self.model).encode(),
            WEIGHTS: json.dumps(self.weights).encode(),
            CONSTANTS: json.dumps(self.constants).encode(),
        }
        return self.write_members(self.members, **options)

    def write_members(self, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
        path = self._folder / "attack.pt2"
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, content in members.items():
                file.writestr(f"archive/{name}", content)
        return path


@pytest.fixture
def attack(exported_digits, tmp_path) -> Attack:
    return Attack(exported_digits("torch-export", dynamic_batch=True), tmp_path)


def _run(path: Path, **options: Any) -> np.ndarray:
    with timmx.open(path, **options) as runner:
        return runner.run({"input": np.full((2, 3, 64, 64), 0.5, np.float32)})["output"]


def test_file_with_unchanged_parts_answers_as_the_original(attack, exported_digits):
    original = exported_digits("torch-export", dynamic_batch=True)
    np.testing.assert_array_equal(_run(attack.write()), _run(original))


def _first_weight(attack: Attack) -> dict[str, Any]:
    return next(iter(attack.weights["config"].values()))


def pickled_weight(attack: Attack) -> None:
    weight = _first_weight(attack)
    weight["use_pickle"] = True
    attack.members[f"data/weights/{weight['path_name']}"] = attack.torch_pickle()


def _constant(attack: Attack, path_name: str, content: bytes) -> None:
    """Make the first weight a constant of this kind."""
    name, weight = next(iter(attack.weights["config"].items()))
    del attack.weights["config"][name]
    attack.constants["config"][name] = weight | {"path_name": path_name, "use_pickle": True}
    attack.members[f"data/constants/{path_name}"] = content
    (spec,) = [
        spec
        for spec in attack.model["graph_module"]["signature"]["input_specs"]
        if spec.get("parameter", {}).get("parameter_name") == name
    ]
    spec["tensor_constant"] = {"arg": spec.pop("parameter")["arg"], "tensor_constant_name": name}


def pickled_constant(attack: Attack) -> None:
    _constant(attack, "tensor_0", attack.torch_pickle())


def opaque_constant(attack: Attack) -> None:
    _constant(attack, "opaque_obj_0", attack.pickle())


def custom_class_constant(attack: Attack) -> None:
    _constant(attack, "custom_obj_0", attack.torch_pickle())


def older_layout_of_weights(attack: Attack) -> None:
    attack.members["data/weights/model.pt"] = attack.torch_pickle()


def older_layout_of_constants(attack: Attack) -> None:
    attack.members["data/constants/model.pt"] = attack.torch_pickle()


def second_program(attack: Attack) -> None:
    attack.members |= {
        "models/other.json": attack.members[MODEL],
        "data/sample_inputs/other.pt": b"",
        "data/weights/other.pt": attack.torch_pickle(),
        "data/constants/other.pt": attack.torch_pickle(),
    }


def expression_of_a_size(attack: Attack) -> None:
    name = attack.graph["inputs"][-1]["as_tensor"]["name"]
    attack.graph["tensor_values"][name]["sizes"][0]["as_expr"]["expr_str"] = attack.code


def expression_after_a_valid_one(attack: Attack) -> None:
    size = {"as_expr": {"expr_str": f"Symbol('s77', integer=True) + {attack.code}", "hint": {"as_int": 2}}}
    name = attack.graph["inputs"][-1]["as_tensor"]["name"]
    attack.graph["tensor_values"][name]["sizes"][0] = size


def target_of_a_node(attack: Attack) -> None:
    attack.graph["tensor_values"]["system"] = next(iter(attack.graph["tensor_values"].values()))
    attack.graph["nodes"].append(
        {
            "target": "torch.serialization.os.system",
            "inputs": [{"name": "", "arg": {"as_string": f"touch {attack.marker}"}, "kind": 1}],
            "outputs": [{"as_tensor": {"name": "system"}}],
            "metadata": {},
            "is_hop_single_tensor_return": None,
            "name": "system",
        }
    )


def operator_that_writes_a_file(attack: Attack) -> None:
    inputs = {
        "filename": {"as_string": str(attack.marker)},
        "shared": {"as_bool": True},
        "size": {"as_int": 4},
    }
    value = deepcopy(next(iter(attack.graph["tensor_values"].values())))
    attack.graph["tensor_values"]["mapped"] = value | {
        "sizes": [{"as_int": 4}],
        "strides": [{"as_int": 1}],
        "requires_grad": False,
    }
    attack.graph["nodes"].append(
        {
            "target": "torch.ops.aten.from_file.default",
            "inputs": [{"name": name, "arg": arg, "kind": 1} for name, arg in inputs.items()],
            "outputs": [{"as_tensor": {"name": "mapped"}}],
            "metadata": {},
            "is_hop_single_tensor_return": None,
            "name": "mapped",
        }
    )


def name_of_the_input(attack: Attack) -> None:
    """torch writes the names of inputs into the code of a function."""
    old = attack.graph["inputs"][-1]["as_tensor"]["name"]
    new = f"{old}={attack.code}"
    attack.graph["tensor_values"][new] = attack.graph["tensor_values"].pop(old)

    def rename(value: Any) -> None:
        if value == {"name": old}:
            value["name"] = new
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            rename(item)

    rename(attack.model)


def library_of_aotinductor(attack: Attack) -> None:
    attack.members["data/aotinductor/model/model.so"] = b"\x7fELF"


REFUSED = [
    pickled_weight,
    pickled_constant,
    opaque_constant,
    custom_class_constant,
    older_layout_of_weights,
    older_layout_of_constants,
    second_program,
    expression_of_a_size,
    expression_after_a_valid_one,
    target_of_a_node,
    operator_that_writes_a_file,
    name_of_the_input,
    library_of_aotinductor,
]


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_file_that_can_run_code_is_refused(attack, change: Callable[[Attack], None]):
    change(attack)
    path = attack.write()
    with pytest.raises(ArtifactError, match="can run code") as caught:
        _run(path)
    assert "--trust" in caught.value.hint
    assert not attack.marker.exists()


def sample_inputs(attack: Attack) -> None:
    attack.members[SAMPLES] = attack.torch_pickle()


def guards(attack: Attack) -> None:
    attack.model["guards_code"] = [f"{attack.code} is None"]


def tree_specification(attack: Attack) -> None:
    """torch imports the module that it names; the current folder is the tests' temporary folder."""
    (attack.marker.parent / "evil_tree.py").write_text(f"{attack.code}\nfactory = list\n")
    context = {
        "default_factory_module": "evil_tree",
        "default_factory_name": "factory",
        "dict_context": ["a"],
    }
    spec = {
        "type": "collections.defaultdict",
        "context": context,
        "children_spec": [{"type": None, "context": None, "children_spec": []}],
    }
    (entry,) = [entry for entry in attack.model["graph_module"]["module_call_graph"] if not entry["fqn"]]
    entry["signature"]["out_spec"] = json.dumps([1, spec])


@pytest.mark.parametrize(
    "change", [sample_inputs, guards, tree_specification], ids=lambda change: change.__name__
)
def test_part_that_is_not_needed_is_left_out(attack, change, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    change(attack)
    assert _run(attack.write()).shape == (2, 10)
    assert not attack.marker.exists()


# Operators that read or write outside the memory of a tensor


def _call(attack: Attack, target: str, *arguments: dict[str, Any], results: int = 1) -> None:
    """Call an operator before the first node."""
    value = deepcopy(next(iter(attack.graph["tensor_values"].values())))
    names = [f"extra_{index}" for index in range(results)]
    packet, overload = target.split(".")[-2:]
    operator = getattr(getattr(torch.ops.aten, packet), overload)
    schema = getattr(operator, "_schema", None)
    named = [item.name for item in schema.arguments] if schema else [""] * len(arguments)
    attack.graph["tensor_values"] |= dict.fromkeys(names, value)
    attack.graph["nodes"].insert(
        0,
        {
            "target": target,
            "inputs": [
                {"name": name, "arg": argument, "kind": 1}
                for name, argument in zip(named, arguments, strict=False)
            ],
            "outputs": [{"as_tensor": {"name": name}} for name in names],
            "metadata": {},
            "is_hop_single_tensor_return": None,
            "name": names[0] if results == 1 else None,
        },
    )


def _inputs(attack: Attack) -> tuple[dict[str, Any], dict[str, Any]]:
    """The input, which has 3 channels, and a weight of another size."""
    (vector, *_) = [
        name
        for item in attack.graph["inputs"]
        if len(attack.graph["tensor_values"][name := item["as_tensor"]["name"]]["sizes"]) == 1
    ]
    return attack.graph["inputs"][-1], {"as_tensor": {"name": vector}}


def batch_norm_of_another_size(attack: Attack) -> None:
    images, vector = _inputs(attack)
    target = "torch.ops.aten._native_batch_norm_legit_no_training.default"
    _call(attack, target, images, *[vector] * 4, {"as_float": 0.1}, {"as_float": 1e-5}, results=3)


def batch_norm_that_writes_to_another_size(attack: Attack) -> None:
    images, vector = _inputs(attack)
    options = ({"as_bool": True}, {"as_float": 0.1}, {"as_float": 1e-5})
    _call(
        attack,
        "torch.ops.aten._native_batch_norm_legit.default",
        images,
        *[vector] * 4,
        *options,
        results=3,
    )


def weight_norm_of_another_size(attack: Attack) -> None:
    images, vector = _inputs(attack)
    _call(attack, "torch.ops.aten._weight_norm_interface.default", images, vector, {"as_int": 0}, results=2)


def transform_of_a_missing_dimension(attack: Attack) -> None:
    images, _ = _inputs(attack)
    numbers = ({"as_ints": [100_000]}, {"as_int": 0}, {"as_bool": True})
    _call(attack, "torch.ops.aten._fft_r2c.default", images, *numbers)


def attention_of_another_length(attack: Attack) -> None:
    images, _ = _inputs(attack)
    weight = next(
        {"as_tensor": {"name": name}}
        for item in attack.graph["inputs"][:-1]
        if len(attack.graph["tensor_values"][name := item["as_tensor"]["name"]]["sizes"]) == 4
    )
    target = "torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default"
    _call(attack, target, images, weight, weight, results=2)


def recurrent_layer_of_another_size(attack: Attack) -> None:
    images, vector = _inputs(attack)
    vectors = {"as_tensors": [vector["as_tensor"]] * 4}
    _call(attack, "torch.ops.aten.select.int", images, {"as_int": 1}, {"as_int": 0})
    _call(
        attack,
        "torch.ops.aten.lstm.input",
        {"as_tensor": {"name": "extra_0"}},
        {"as_tensors": [vector["as_tensor"]] * 2},
        vectors,
        *[{"as_bool": True}, {"as_int": 1}, {"as_float": 0.0}, *[{"as_bool": False}] * 3],
        results=3,
    )
    attack.graph["nodes"][:2] = attack.graph["nodes"][1::-1]
    attack.graph["nodes"][1]["outputs"] = [
        {"as_tensor": {"name": f"recurrent_{index}"}} for index in range(3)
    ]
    for output in attack.graph["nodes"][1]["outputs"]:
        values = attack.graph["tensor_values"]
        values[output["as_tensor"]["name"]] = values["extra_0"]


@pytest.mark.parametrize(
    "change",
    [
        batch_norm_of_another_size,
        batch_norm_that_writes_to_another_size,
        weight_norm_of_another_size,
        transform_of_a_missing_dimension,
        attention_of_another_length,
        recurrent_layer_of_another_size,
    ],
    ids=lambda change: change.__name__,
)
def test_arguments_that_a_kernel_does_not_check_are_checked(attack, change):
    change(attack)
    with pytest.raises(ValueError, match="do not fit each other"):
        _run(attack.write())


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("aten.to.prim_Device", [{"as_none": True}, {"as_none": True}]),
        ("aten.sort.any", []),
        ("aten.max.dim_max", [{"as_int": 0}]),
        ("aten.topk.values", [{"as_int": 1}]),
        ("aten.lstm.data", []),
        ("aten.add.overloads", []),
    ],
)
def test_operator_without_a_kernel_for_results_is_refused(attack, target, arguments):
    images, _ = _inputs(attack)
    _call(attack, f"torch.ops.{target}", images, *arguments)
    with pytest.raises(ArtifactError, match=r"it calls|not an allowed operator"):
        _run(attack.write())


def test_tensor_with_a_sparse_layout_is_refused(attack):
    _call(attack, "torch.ops.aten.zeros.default", {"as_ints": [2, 2]}, {"as_layout": 2})
    with pytest.raises(ArtifactError, match="not stored by strides"):
        _run(attack.write())


def test_operators_with_checked_arguments_answer_as_before():
    class Parts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)
            self.linear = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 8))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            values = torch.fft.irfft2(torch.fft.rfft2(self.norm(images)))
            attended = torch.nn.functional.scaled_dot_product_attention(values, values, values)
            return self.linear(attended)

    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        program = torch.export.export(Parts().eval(), (images,)).run_decompositions()
        module = program.module()
        expected = module(images)
        before = {node.target for node in module.graph.nodes}
        check_arguments(module)
        assert len({node.target for node in module.graph.nodes} - before) >= 3
        torch.testing.assert_close(module(images), expected)


def test_older_archive_inside_the_current_one_is_refused(attack):
    """torch.export.load reads the layout of torch 2.7 if the current one fails with a RuntimeError."""
    path = attack.write()
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("version", "8.20")
        file.writestr("serialized_exported_program.json", attack.members[MODEL])
        for name in ("state_dict", "constants", "example_inputs"):
            file.writestr(f"serialized_{name}.pt", attack.torch_pickle())
    with pytest.raises(ArtifactError):
        _run(path)
    assert not attack.marker.exists()


def test_file_that_changes_after_it_was_judged_is_not_loaded_again(attack, monkeypatch):
    path = attack.write()
    judged = path.rename(path.with_name("judged.pt2"))
    pickled_weight(attack)
    hostile = attack.write()
    judge = runner_module.clean_file

    def replace_then_load(archive):
        clean = judge(archive)
        hostile.replace(judged)
        return clean

    monkeypatch.setattr(runner_module, "clean_file", replace_then_load)
    assert _run(judged).shape == (2, 10)
    assert not attack.marker.exists()


def test_commands_refuse_a_hostile_file_and_name_trust(attack, run_timmx, digits):
    pickled_weight(attack)
    path = attack.write()
    images = digits.removeprefix("local-dir:") + "/samples"
    for arguments in (
        ["predict", path, images],
        ["eval", path, "--data", images],
        ["verify", path, "--against", path],
    ):
        result = run_timmx(*arguments)
        assert result.exit_code == 2
        assert "--trust" in result.stderr
    assert not attack.marker.exists()


@pytest.fixture
def refused_but_loadable(attack) -> Path:
    """A file that is refused, and runs code when torch loads it."""
    attack.members["data/unknown"] = b""  # torch ignores it
    attack.model["guards_code"] = [f"{attack.code} is None"]
    return attack.write()


@pytest.mark.parametrize("command", ["eval", "verify", "verify a file", "bench", "compare"])
def test_commands_load_a_refused_file_with_trust_only(
    attack, refused_but_loadable, run_timmx, digits, command
):
    path, folder = refused_but_loadable, digits.removeprefix("local-dir:")
    arguments = {
        "eval": ["eval", path, "--data", f"{folder}/samples", "--limit", "2"],
        "verify": ["verify", path, "--against", digits],
        "verify a file": ["verify", path, "--against", path],
        "bench": ["bench", path, "--seconds", "0.1", "--rounds", "1"],
        "compare": ["compare", path.parent, "--no-bench", "--data", f"{folder}/samples"],
    }[command]
    assert run_timmx(*arguments).exit_code == 2
    assert not attack.marker.exists()
    result = run_timmx(*arguments, "--trust")
    assert result.exit_code == 0, result.stderr
    assert attack.marker.exists()


def test_bench_refuses_a_hostile_file_and_names_trust(attack, run_timmx):
    pickled_weight(attack)
    result = run_timmx("bench", attack.write(), "--seconds", "0.1", "--rounds", "1")
    assert result.exit_code == 2
    assert "can run code" in result.stderr
    assert not attack.marker.exists()


def test_trusted_file_is_loaded_as_it_is_after_a_warning(attack, run_timmx, digits):
    attack.members["data/unknown"] = b""  # torch ignores it
    attack.model["guards_code"] = [f"{attack.code} is None"]
    path = attack.write()
    images = digits.removeprefix("local-dir:") + "/samples"
    assert run_timmx("predict", path, images).exit_code == 2
    assert not attack.marker.exists()
    result = run_timmx("predict", path, images, "--trust")
    assert result.exit_code == 0
    assert "can run code" in result.stderr
    assert attack.marker.exists()


def test_trust_loads_as_torch_does(attack):
    pickled_weight(attack)
    weight = _first_weight(attack)
    sizes = [size["as_int"] for size in weight["tensor_meta"]["sizes"]]
    buffer = io.BytesIO()
    torch.save(torch.nn.Parameter(torch.zeros(sizes)), buffer)
    attack.members[f"data/weights/{weight['path_name']}"] = buffer.getvalue()
    path = attack.write()
    warnings: list[str] = []

    class Collecting(Reporter):
        def warn(self, text: str) -> None:
            warnings.append(text)

    with reporting(Collecting()):
        assert _run(path, trust=True).shape == (2, 10)
    assert "can run code" in " ".join(warnings)
    with pytest.raises(ArtifactError, match="pickled"):
        _run(path)


def test_inspect_runs_nothing(attack):
    for change in (pickled_weight, expression_of_a_size, sample_inputs, guards):
        change(attack)
    path = attack.write()
    backend = load("torch-export")
    assert backend.inspect(path)["operations"]
    assert backend.read_metadata(path)["model"]
    assert not attack.marker.exists()


# The structure of the archive


def _patched(path: Path, old: bytes, new: bytes, count: int = 1) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, count))
    return path


def with_bytes_before(attack: Attack) -> Path:
    path = attack.write()
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    return path


def with_bytes_after(attack: Attack) -> Path:
    path = attack.write()
    path.write_bytes(path.read_bytes() + b"\0")
    return path


def with_a_comment(attack: Attack) -> Path:
    path = attack.write()
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"PK\x05\x06" + bytes(18)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def with_two_members_of_one_name(attack: Attack) -> Path:
    path = attack.write()
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(f"archive/{MODEL}", b"{}")
    return path


def with_names_that_differ_in_case(attack: Attack) -> Path:
    attack.members[MODEL.upper()] = attack.members[MODEL]
    return attack.write()


def with_another_local_name(attack: Attack) -> Path:
    return _patched(attack.write(), b"archive/models/model.json", b"archive/models/hello.json")


def with_another_local_size(attack: Attack) -> Path:
    path = attack.write()
    content = bytearray(path.read_bytes())
    content[18:22] = struct.pack("<L", 1)  # of the first local header
    path.write_bytes(content)
    return path


def with_an_encrypted_member(attack: Attack) -> Path:
    path = attack.write()
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        content[content.index(mark) + at] |= 1
    path.write_bytes(content)
    return path


def with_an_absolute_name(attack: Attack) -> Path:
    path = attack.write()
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("/etc/file", b"")
    return path


def with_a_name_that_leaves_the_folder(attack: Attack) -> Path:
    attack.members["../../file"] = b""
    return attack.write()


def with_compressed_members(attack: Attack) -> Path:
    attack.members["extra/zeros"] = bytes(10_000_000)
    return attack.write(compression=zipfile.ZIP_DEFLATED)


def with_bytes_between_members(attack: Attack) -> Path:
    path = attack.write()
    with zipfile.ZipFile(path) as file:
        last = max(file.infolist(), key=lambda info: info.header_offset)
        start = file.start_dir
    content = path.read_bytes()
    end = content[start:].replace(
        struct.pack("<L", last.header_offset) + last.filename.encode(),
        struct.pack("<L", last.header_offset + 4) + last.filename.encode(),
    )
    head = content[: last.header_offset] + b"\0\0\0\0" + content[last.header_offset : start]
    at = end.rindex(b"PK\x05\x06") + 16
    path.write_bytes(head + end[:at] + struct.pack("<L", start + 4) + end[at + 4 :])
    return path


AMBIGUOUS = [
    with_bytes_before,
    with_bytes_after,
    with_a_comment,
    with_two_members_of_one_name,
    with_names_that_differ_in_case,
    with_another_local_name,
    with_another_local_size,
    with_an_encrypted_member,
    with_an_absolute_name,
    with_a_name_that_leaves_the_folder,
    with_compressed_members,
    with_bytes_between_members,
]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", AMBIGUOUS, ids=lambda make: make.__name__)
def test_archive_that_readers_can_understand_differently_is_refused(attack, make):
    path = make(attack)
    with pytest.raises(ArtifactError, match="damaged"):
        _run(path)
    with pytest.raises(ArtifactError, match="damaged"):
        load("torch-export").inspect(path)


# Damage


def test_changed_weight_is_an_error(attack):
    path = attack.write()
    with zipfile.ZipFile(path) as file:
        info = max(file.infolist(), key=lambda info: "weight_" in info.filename and info.file_size)
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename) + info.file_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="checksum"):
        _run(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_reported(attack, share):
    path = attack.write()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ArtifactError):
        _run(path)
    with pytest.raises(ArtifactError):
        load("torch-export").inspect(path)


@pytest.mark.parametrize("name", ["archive_format", "archive_version", MODEL, WEIGHTS, CONSTANTS])
def test_missing_member_is_reported(attack, name):
    attack.write()
    del attack.members[name]
    with pytest.raises(ArtifactError):
        _run(attack.write_members(attack.members))


def test_missing_weight_is_reported(attack):
    del attack.members[f"data/weights/{_first_weight(attack)['path_name']}"]
    with pytest.raises(ArtifactError, match="is missing"):
        _run(attack.write())


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:-4], lambda b: b"", lambda b: b + b"\0"])
def test_weight_of_another_size_is_reported(attack, change):
    name = f"data/weights/{_first_weight(attack)['path_name']}"
    attack.members[name] = change(attack.members[name])
    with pytest.raises(ArtifactError, match="do not fit its shape"):
        _run(attack.write())


HUGE = 10**400
NAME = "n" * 100_000
VALUES = [2**70, HUGE, -1, 1.5, True, None, NAME, [], {}, [[]], "", "\ud800", "\x1b[31m"]


@pytest.mark.parametrize(
    "where", ["sizes", "strides", "storage_offset", "dtype", "device", "layout", "path_name"]
)
@pytest.mark.parametrize("value", VALUES, ids=[f"value{index}" for index in range(len(VALUES))])
def test_description_of_a_weight_that_does_not_fit_is_reported(attack, where, value):
    weight = _first_weight(attack)
    meta = weight["tensor_meta"]
    if where == "path_name":
        weight["path_name"] = value
    elif where in ("sizes", "strides"):
        meta[where][0] = {"as_int": value}
    elif where == "storage_offset":
        meta[where] = {"as_int": value}
    else:
        meta[where] = value
    with pytest.raises(ArtifactError):
        _run(attack.write())


@pytest.mark.parametrize("part", ["target", "inputs", "outputs", "name"])
@pytest.mark.parametrize(
    "value", [HUGE, 1.5, NAME, [[]], {"a": 1}, "\ud800"], ids=lambda value: str(value)[:8]
)
def test_node_that_does_not_fit_is_reported(attack, part, value):
    attack.graph["nodes"][0][part] = value
    path = attack.write()
    with pytest.raises(ArtifactError):
        _run(path)


@pytest.mark.parametrize(
    "key", ["graph_module", "schema_version", "range_constraints", "verifiers", "opset_version"]
)
@pytest.mark.parametrize("value", [None, {"a": HUGE}, "x", 7], ids=["none", "number", "text", "seven"])
def test_program_that_does_not_fit_is_reported(attack, key, value):
    attack.model[key] = value
    with pytest.raises(ArtifactError):
        _run(attack.write())


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"null", b"[" * 200_000, b"9" * 10_000, b'{"a":' * 50_000]
)
@pytest.mark.parametrize("name", [MODEL, WEIGHTS, CONSTANTS, "extra/timmx.json"])
def test_json_that_cannot_be_read_is_reported(attack, name, content):
    attack.write()
    path = attack.write_members(attack.members | {name: content})
    with pytest.raises(ArtifactError):
        _run(path)
    if name == MODEL:
        with pytest.raises(ArtifactError):
            load("torch-export").inspect(path)


def test_member_that_is_too_large_is_not_read(attack, monkeypatch):
    monkeypatch.setattr(archive_module, "_LARGEST_JSON_BYTES", 1000)
    path = attack.write()
    with pytest.raises(ArtifactError, match="at most 1,000 are read"):
        load("torch-export").inspect(path)


def test_program_of_many_values_is_not_parsed(attack):
    attack.write()
    attack.members[MODEL] = b"[" + b"{}," * 2_000_001 + b"0]"  # 6 MB of text, 170 MB of memory
    with pytest.raises(ArtifactError, match="more than 4,000,000 values"):
        load("torch-export").inspect(attack.write_members(attack.members))


@pytest.mark.parametrize("key", ["mean", "crop_pct", "size"])
def test_number_in_the_metadata_that_is_too_large_is_reported(attack, key):
    metadata = json.loads(attack.members["extra/timmx.json"])
    metadata["input"][key] = HUGE if key == "crop_pct" else [3, HUGE, HUGE]
    attack.members["extra/timmx.json"] = json.dumps(metadata).encode()
    with pytest.raises(ArtifactError):
        _run(attack.write())


def test_operations_that_do_not_fit_each_other_are_reported(attack):
    attack.graph["nodes"].reverse()
    with pytest.raises(ArtifactError, match=r"torch\.export\.load"):
        _run(attack.write())


def test_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe.pt2"
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match="is a pipe, not a file"):
        timmx.open(path)


# Expressions of sizes

SYMBOL = "Symbol('s77', positive=True, integer=True)"


@pytest.mark.parametrize(
    "text",
    [
        SYMBOL,
        "s0",
        f"Mul(Integer(64), {SYMBOL})",
        f"Add(Integer(-1), Mul(Integer(2), {SYMBOL}))",
        f"FloorDiv(Add({SYMBOL}, Integer(1)), Integer(2))",
        f"Pow({SYMBOL}, Integer(2))",
        f"Max(Integer(1), {SYMBOL})",
        f"Equality(Mod({SYMBOL}, Integer(8)), Integer(0))",
    ],
)
def test_expression_of_sizes_is_accepted(text):
    assert clean_expression(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "print('x')",
        "__import__('os')",
        "Symbol('__import__')",
        "Symbol('s0').__class__",
        "s0 if s0 else s0",
        "lambda: 0",
        "[s0]",
        "Integer('1')",
        "Symbol('s0', cls=print)",
        "Function('s0')",
        "Pow(Integer(9), Integer(999999999))",
        "Pow(Pow(s0, Integer(4)), Integer(4))",
        "Integer(99999999999999999999999)",
        "Add(" * 100 + "s0" + ")" * 100,
        "Mul(s0",
        "s0 s1",
        "Add()",
        f"s0{'0' * 10_000}",
    ],
)
def test_other_text_is_not_an_expression(text):
    with pytest.raises(InvalidExpression):
        clean_expression(text)


def test_checksums_are_those_of_zip(attack):
    path = attack.write()
    backend = load("torch-export")
    with archive_module.open_archive(path) as archive:
        for name, member in archive.members.items():
            assert archive.file.checksum(member) == zlib.crc32(attack.members[name])
    assert backend.read_metadata(path)
