"""README.md and docs/ from a fresh clone: every block as printed, long commands made short.

`walk.py FOLDER` copies what the next commit would hold to FOLDER/clone, gives it the packages of
this Python as its `.venv`, and goes through the pages as a reader does: the commands in order, and
those that they print, then the Python of each page as one program. A line for each is printed; the
first that does not end as its page says ends the walk, with exit code 1.
"""

import importlib
import multiprocessing
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pages import Command, Page, commands, pages

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300  # after which a command counts as hanging
TINY = "--num-layers 1 --num-heads 2 --embed-dim 16"
TWO_STEPS = f"--steps 2 --warmup-steps 1 --sample-tokens 2 {TINY}"

# What makes commands short: in those that begin so, a text is replaced, or, where that is empty,
# another is added at the end.
SHORT = [
    ("make train", "", f"ARGS='--stories-bytes 60000 --tokenizer bpe:300 {TWO_STEPS}'"),
    ("make test", "", "--dry-run"),
    ("make serve", "", "--dry-run"),
    ("make benchmark", "", "--dry-run"),
    ("curl ", "curl ", "curl --fail-with-body --silent --show-error --noproxy 127.0.0.1 "),
    (
        "make assistant",
        "",
        "ARGS='--steps 2 --conversations 16 --preferences 2 --questions 2 --stories-bytes 100000 "
        f"{TINY}'",
    ),
    ("python scripts/train.py small --data", "", f"--tokenizer bpe:300 {TWO_STEPS}"),
    (
        "python scripts/train.py small --profile",
        "",
        f"--stories-bytes 60000 --tokenizer bpe:300 --steps 9 --warmup-steps 1 {TINY}",
    ),
    (
        "python scripts/train.py gpt2 --data my_texts",
        "",
        f"--tokenizer bytes --sample-tokens 2 --evaluation-batches 1 {TINY}",
    ),
    (
        "python scripts/train.py gpt2 --init-from",
        "",
        "--steps 2 --warmup-steps 1 --batch-size 2 --gradient-accumulation 1 --sample-tokens 2 "
        "--evaluation-batches 1 --compute-dtype float32",
    ),
    ("python scripts/sweep.py", "", f"--stories-bytes 60000 {TWO_STEPS}"),
    ("python scripts/generate.py", "", "--max-new-tokens 8"),
    ("python scripts/chat.py", "", "--max-new-tokens 8"),
    ("python scripts/benchmark.py serve", "", "--streams 2 --new-tokens 8 --steps 1"),
    ("python scripts/evaluate.py answers", "", "--max-new-tokens 8 --limit 2"),
    ("python scripts/finetune_classifier.py", "--steps 500", "--steps 2"),
    ("python scripts/finetune_classifier.py", "--warmup-steps 20", "--warmup-steps 1"),
]
# How commands end that do not end with 0: what needs the network is without it here.
ENDS = {
    "python scripts/train.py gpt2 --data fineweb-edu": (3, "fineweb-edu"),
    "python scripts/convert.py --from huggingface --model openai-community/gpt2": (
        3,
        "openai-community",
    ),
    "python scripts/compare.py": (1, "has blocks.attn.out.weight of layer 2 transposed"),
}
# What answers until it is told to stop: it runs beside the curl lines that follow it.
SERVER, IS_UP = "python scripts/serve.py", " serves "
FIRST = ("make train", "make assistant")  # what the other commands begin with
# What the pages take for granted, as is gpt2_folder.
FILES = {
    "my_texts/one.txt": "Once upon a time a king of 7 isles set sail, and the sea was calm.\n" * 99,
    "my_texts/two.txt": "The queen of the north had a snowy robin, and it sang all day.\n" * 99,
    "sms_spam.tsv": "".join(f"ham\tSee you at {n}\nspam\tYou won {n}! Call\n" for n in range(50)),
    "messages.txt": "Call now\nSee you\n",
    "mine.py": """
from jaxgpt.huggingface.weights import load_gpt2
from jaxgpt.parity.torch_reference import from_params

def make_model():
    model = from_params(*load_gpt2("gpt2_folder"))
    weight = model.blocks[2].attn.out.weight
    weight.data = weight.data.T.clone()
    return model
""",
}
# Imported once, by the process that all scripts are forked from.
MODULES = (
    *("jaxgpt.training.pretrain", "jaxgpt.finetuning.pretrained", "jaxgpt.generation.text", "tyro"),
    *("jaxgpt.finetuning.tune_classifier", "jaxgpt.finetuning.tune_instructions"),
    *("jaxgpt.finetuning.tune_preferences", "jaxgpt.assistant.answers", "jaxgpt.assistant.chat"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg"),
)


def shortened(line: str) -> str:
    """The command with few steps."""
    for begin, old, new in SHORT:
        if line.startswith(begin):
            line = line.replace(old, new) if old else f"{line} {new}"
    return line


def copy_checkout(clone: Path) -> None:
    """Copy the files that git keeps, or would keep with the next commit."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, found.split("\0")):
        if (ROOT / name).is_file():  # not what the next commit would delete
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)


def give_packages(clone: Path) -> None:
    """Make `.venv` as make does, but with the packages of this Python."""
    there = clone / ".venv/bin"
    there.mkdir(parents=True)
    (there / "python").symlink_to(sys.executable)
    if sys.prefix != sys.base_prefix:
        shutil.copy(Path(sys.prefix) / "pyvenv.cfg", clone / ".venv")
        (clone / ".venv/lib").symlink_to(Path(sys.prefix) / "lib")
    for stamp in (".installed", ".installed-dev", ".installed-serve"):
        (there / stamp).touch()


def settle(folder: Path, clone: Path) -> None:
    """The environment of all commands: a CPU, no network, one folder for compiled programs."""
    for name in list(os.environ):
        if name.startswith(("JAX", "XLA", "MAKE", "MFLAGS", "HF_", "COLUMNS")):
            del os.environ[name]
    nowhere = "http://127.0.0.1:9"
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "JAXGPT_CACHE": str(folder / "cache"),
        # The programs run a few times; to optimise them takes longer than it saves.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(clone),
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere),
    }
    os.chdir(clone)
    sys.executable = str(clone / ".venv/bin/python")
    sys.path[:0] = [str(clone), str(clone / "scripts")]
    for name in MODULES:
        importlib.import_module(name)


def make_gpt2() -> None:
    """A small GPT-2 as Hugging Face has it."""
    import jax

    from jaxgpt import ModelConfig, init_params, load_tokenizer
    from jaxgpt.huggingface.weights import save_gpt2

    config = ModelConfig(vocab_size=257, context_length=32, num_layers=3, num_heads=2, embed_dim=8)
    params = init_params(config, jax.random.key(0))
    save_gpt2("gpt2_folder", config, params, tokenizer=load_tokenizer("bytes"))


def as_script(words: list[str]) -> None:
    """What Python does when it is given a script's path and arguments."""
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _redirected(files: tuple[Path, Path], function: Callable, arguments: tuple) -> None:
    for stream, (path, mode) in enumerate([(files[0], "r"), *[(files[1], "a")] * 2]):
        with open(path, mode) as file:
            os.dup2(file.fileno(), stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    function(*arguments)


class Walk:
    """Commands in the current folder, each a process, with the output of the last in a file."""

    def __init__(self, folder: Path) -> None:
        """Keep what is typed, the output, and the words of a command in `folder`."""
        self.typed, self.output = folder / "typed.txt", folder / "output.txt"
        self.words = folder / "words"
        self.server: multiprocessing.process.BaseProcess | None = None
        self.typed.touch()

    def go(self, command: Command) -> list[str]:
        """Run a command, which must end as its page says; the commands that it prints."""
        began, line = time.monotonic(), shortened(command.line)
        if not line.startswith("curl "):
            self.stop_server()
        self.typed.write_text(command.typed)
        self.output.write_text("")
        code = self.run(line)
        text = self.output.read_text()
        print(f"{time.monotonic() - began:5.1f} s  exit {code}  {command.line}", flush=True)
        ends = [end for begin, end in ENDS.items() if command.line.startswith(begin)]
        expected, said = ends[0] if ends else (0, "")
        if code != expected or said not in text or "Traceback" in text:
            raise SystemExit(
                f"it should exit with {expected}, run as `{line}`; its output:\n{text}"
            )
        advice = r"^(?!usage)[^:\n]*: (\.venv/bin/python scripts/.*)$"
        return re.findall(advice, text, re.MULTILINE)

    def program(self, page: Page) -> None:
        """Run the Python of a page, whose blocks go on from each other."""
        if source := "\n".join(page.blocks("python")):
            began = time.monotonic()
            self.output.write_text("")
            code = self.fork(exec, compile(source, page.name, "exec"), {"__name__": "__main__"})
            seconds = time.monotonic() - began
            print(f"{seconds:5.1f} s  exit {code}  Python of {page.name}", flush=True)
            if code != 0:
                raise SystemExit(f"it should exit with 0; its output:\n{self.output.read_text()}")

    def run(self, line: str) -> int | None:
        """The exit code of a line of bash, whose scripts are forked from here."""
        self.words.unlink(missing_ok=True)
        keep = f'python() {{ printf "%s\\0" "$@" > {shlex.quote(str(self.words))}; }}; '
        keep += '.venv/bin/python() { python "$@"; }; '
        with open(self.typed) as typed, open(self.output, "a") as output:
            ran = subprocess.run(
                ["bash", "-c", keep + line], stdin=typed, stdout=output, stderr=output, check=False
            )
        if not self.words.exists():
            return ran.returncode
        words = self.words.read_text().split("\0")[:-1]
        return self.serve(words) if line.startswith(SERVER) else self.fork(as_script, words)

    def serve(self, words: list[str]) -> int | None:
        """0 once the server is up, or else its exit code."""
        log = self.output.with_name("server.txt")
        log.write_text("")
        self.server = self._started(log, as_script, words)
        ends = time.monotonic() + SECONDS
        while self.server.is_alive() and time.monotonic() < ends:
            if IS_UP in log.read_text():
                return 0
            time.sleep(0.1)
        self.output.write_text(log.read_text())
        self.server.kill()
        return self.server.exitcode

    def stop_server(self) -> None:
        """Let the server end, if there is one, which must be with 0."""
        if self.server is not None:
            self.server.terminate()
            self.server.join(SECONDS)
            if self.server.exitcode != 0:
                raise SystemExit(f"the server should exit with 0, not {self.server.exitcode}")
            self.server = None

    def fork(self, function: Callable, *arguments: object) -> int | None:
        """The exit code of a function in a process of its own, or None if it hangs."""
        process = self._started(self.output, function, *arguments)
        process.join(SECONDS)
        process.kill()
        return process.exitcode

    def _started(
        self, output: Path, function: Callable, *arguments: object
    ) -> multiprocessing.process.BaseProcess:
        process = multiprocessing.get_context("fork").Process(
            target=_redirected, args=((self.typed, output), function, arguments)
        )
        process.start()
        return process


def main(folder: Path) -> None:
    """Walk."""
    clone = folder / "clone"
    copy_checkout(clone)
    give_packages(clone)
    for name, text in FILES.items():
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_text(text)
    settle(folder, clone)
    walk = Walk(folder)
    if code := walk.fork(make_gpt2):
        raise SystemExit(f"gpt2_folder was not made: exit {code}\n{walk.output.read_text()}")
    read = pages(clone)
    found = dict.fromkeys(command for page in read for command in commands(page))
    printed: dict[str, str] = {}
    for command in sorted(found, key=lambda item: item.line not in FIRST):
        for line in walk.go(command):
            if printed.setdefault(line.split()[1], line) == line:  # one of each script
                walk.go(Command(line))
    walk.stop_server()
    for page in read:
        walk.program(page)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
