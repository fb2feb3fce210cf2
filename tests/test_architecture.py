"""The layout of the code, held by reading it: imports run one way, each library has one door."""

import ast
import importlib
import inspect
import pydoc
import re
import runpy
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

import jaxgpt
from jaxgpt.assistant.chat_config import ChatConfig
from jaxgpt.assistant.recipe import Recipe
from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.finetuning.settings import (
    ClassifierConfig,
    InstructionConfig,
    LoraConfig,
    PreferenceConfig,
    PreferenceTuningConfig,
)
from jaxgpt.run_config import OptimizerConfig, RunOptions
from jaxgpt.shell import COMMANDS

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "jaxgpt").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

STAGES = [
    "errors",
    "terminal",
    "shell",
    "files",
    "panics",
    "ranges",
    "fields",
    "compute",
    "axes",
    "run_config",
    "config",
    "families",
    "presets",
    "config_file",
    "tokenization",
    "data",
    "model",
    "hosts",
    "training",
    "cluster",
    "huggingface",
    "generation",
    "finetuning",
    "assistant",
    "serving",
    "parity",
    "worked",
    "benchmark",
    "commands",
]
DOORS = {
    "flax": "jaxgpt/model/gpt.py",
    "jinja2": "jaxgpt/tokenization/sandbox.py",
    "orbax": "jaxgpt/training/arrays.py",
    "tiktoken": "jaxgpt/tokenization/bpe_tokenizer.py",
    "tokenizers": "jaxgpt/tokenization/json_tokenizer.py",
    "torch": ("jaxgpt/parity/", "jaxgpt/benchmark/"),
    "safetensors": ("jaxgpt/huggingface/", "jaxgpt/finetuning/lora_file.py"),
    "transformers": "jaxgpt/benchmark/transformers_writer.py",
    "tyro": "jaxgpt/commands/cli.py",
    "pyarrow": "jaxgpt/data/parquet.py",
    "starlette": "jaxgpt/serving/app.py",
    "uvicorn": "jaxgpt/serving/listen.py",
    "prometheus_client": "jaxgpt/serving/metrics.py",
    "matplotlib": "jaxgpt/training/picture.py",
}


def _imports(path):
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module


def _stage(module):
    return module.split(".")[1] if "." in module else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    own = parts[1] if len(parts) > 1 else None
    for module in _imports(path):
        stage = _stage(module) if module.startswith("jaxgpt") else None
        if stage is None or own in ("__init__", "__main__"):
            continue
        assert STAGES.index(stage) <= STAGES.index(own), f"{path} imports {module}"


def test_no_room_holds_more_than_a_fifth():
    lines = Counter()
    for path in MODULES:
        lines[path.relative_to(ROOT).parts[1]] += len(path.read_text().splitlines())
    room, largest = lines.most_common(1)[0]
    assert largest <= lines.total() / 5, f"{room} has {largest} of {lines.total()} lines"


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_library_has_one_door(path):
    for module in _imports(path):
        door = DOORS.get(module.split(".")[0], "")
        assert str(path.relative_to(ROOT)).startswith(door), f"{path} imports {module}"


def test_tokenization_and_data_do_without_jax():
    rooms = (ROOT / "jaxgpt" / "tokenization", ROOT / "jaxgpt" / "data")
    for path in (path for room in rooms for path in room.glob("*.py")):
        assert not {"jax", "flax", "optax"} & {name.split(".")[0] for name in _imports(path)}, path


@pytest.mark.parametrize("name", jaxgpt.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(jaxgpt, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}("), "a dataclass without its own docstring"


def test_help_is_the_table_of_contents_and_names_complete():
    lines = pydoc.plain(pydoc.render_doc(jaxgpt)).splitlines()
    assert len(lines) < 140
    assert any("training      logits -> loss" in line for line in lines)
    assert not any("inherited from" in line for line in lines)
    assert set(jaxgpt.__all__) <= set(dir(jaxgpt))


def test_jaxgpt_alone_is_a_screen_of_its_commands():
    page = importlib.import_module("jaxgpt.__main__").page().splitlines()
    assert page[0].startswith(f"jaxgpt {jaxgpt.__version__}: ")
    assert len(page) <= 30
    assert max(map(len, page[:-3])) <= 100
    for name in COMMANDS:
        [about] = [line for line in page if line.startswith(f"  {name}  ")]
        assert about.removeprefix(f"  {name}").strip()


def test_each_script_is_the_door_of_its_command():
    doors = {path.stem: path.read_text() for path in SCRIPTS if path.stem != "startup"}
    assert set(doors) == set(COMMANDS.values())
    for name, module in COMMANDS.items():
        assert (ROOT / "jaxgpt/commands" / f"{module}.py").is_file()
        assert doors[module].endswith(f'    startup.run("{name}")\n')
        assert len(doors[module].splitlines()) == 6


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute attention_is_all"):
        jaxgpt.attention_is_all  # noqa: B018


def test_modules_in_the_table_of_contents_exist():
    for module in set(jaxgpt._MODULE.values()):
        importlib.import_module(f"jaxgpt.{module}")


def test_editors_see_the_same_names_from_the_same_modules():
    stub = ast.parse((ROOT / "jaxgpt" / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert all(alias.asname == alias.name for node in imports for alias in node.names)
    assert seen == {name: f"jaxgpt.{module}" for name, module in jaxgpt._MODULE.items()}


@pytest.mark.slow
def test_a_users_program_runs():
    # That pyright, in strict mode, knows all its types is a part of `make lint`.
    program = runpy.run_path(str(ROOT / "tests" / "user_program.py"))
    assert program["loss"] > 0
    assert len(program["text"]) == 4


def test_importing_the_package_imports_neither_jax_nor_torch():
    code = "import sys, jaxgpt; print(*{'jax', 'flax', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_config_field_is_read_somewhere():
    declared = {"config.py", "run_config.py", "settings.py"}
    trees = [ast.parse(path.read_text()) for path in MODULES + SCRIPTS if path.name not in declared]
    nodes = (node for tree in trees for node in ast.walk(tree))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    kinds = (ModelConfig, DataConfig, OptimizerConfig, TrainConfig, RunOptions)
    kinds += (ClassifierConfig, InstructionConfig, PreferenceTuningConfig, LoraConfig)
    for kind in (*kinds, PreferenceConfig, ChatConfig, Recipe):
        for item in fields(kind):
            assert item.name in read, f"nothing reads {kind.__name__}.{item.name}"


def test_nothing_is_there_for_tests_alone():
    nodes = [node for path in MODULES for node in ast.walk(ast.parse(path.read_text()))]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {x.name for node in nodes if isinstance(node, ast.ImportFrom) for x in node.names}
    used |= {"main", *jaxgpt.__all__}  # of a command
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    used |= {
        function.name
        for function in functions
        if any(ast.unparse(item).startswith("example(") for item in function.decorator_list)
    }
    for path in MODULES:
        if path.name.startswith("torch_"):
            continue  # the twin, which tests compare with
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("__"):
                assert node.name in used, f"nothing but tests calls {path}:{node.lineno}"


def test_sums_are_made_in_one_place():
    names = [path.name for path in MODULES if "hashlib.sha256(" in path.read_text()]
    assert names == ["files.py"]


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_messages_name_the_python_that_runs(path):
    names = "|".join(script.stem for script in SCRIPTS)
    scripts = rf"\b({names})\.py\b.*\s|\s({names})\.py\b"
    command = re.compile(rf"\bpython3? |\bjaxgpt ({'|'.join(COMMANDS)})\b|{scripts}")
    tree = ast.parse(path.read_text())
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            found = command.search(node.value)
            assert not found, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_terminal_prints(path):
    for node in ast.walk(ast.parse(path.read_text())):
        printed = isinstance(node, ast.Name) and node.id == "print"
        written = isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "sys.stdout.write",
            "sys.stderr.write",
        )
        allowed = path.name in ("terminal.py", "startup.py")  # which has no jaxgpt to import
        assert allowed or not (printed or written), f"{path}:{node.lineno}"
