"""Bad input to the command lines: one line that says what is wrong, and nothing written.

The exit codes are those of jaxgpt.errors: 2 arguments, 3 data, 4 checkpoints, 6 resources.
"""

import contextlib
import fcntl
import gzip
import importlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import pytest

from jaxgpt import shell
from jaxgpt.shell import python

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = (
    *(
        "train",
        "plan",
        "sweep",
        "prepare_data",
        "train_tokenizer",
        "generate",
        "evaluate",
        "convert",
    ),
    *("finetune_classifier", "finetune_instructions", "finetune_preferences"),
    *("classify", "chat", "assistant"),
)
TEXT = "Once upon a time a king of 7 isles set sail. <|endoftext|> is how he spoke.\n" * 200
SHARD = "train-00000.bin"
SECONDS = 60  # after which a command line counts as hanging

# Model and training as small as they go, with more ids in the table than the tokenizer has.
RUN = {
    "preset": "tiny",
    "steps": 2,
    "checkpoint_every": 2,
    "evaluation_batches": 1,
    "batch_size": 8,
    "model": {"vocab_size": 300, "context_length": 16, "num_layers": 1, "embed_dim": 8},
    "data": {"data": ["text.txt"]},
    "optimizer": {"warmup_steps": 1},
}

CLASSIFIER = "finetune_classifier.py --init-from answering --out out --data"
INSTRUCTIONS = "finetune_instructions.py --init-from answering --template phi --out out --data"
PREFERENCES = "finetune_preferences.py --init-from answering --template phi --out out --data"

HUGE = "1" + "0" * 400
COUNTS = ("num-layers", "vocab-size", "context-length", "steps", "seed", "log-every", "stride")

# Flags and settings of `train.py tiny --out out`. The comments give the kinds of mistakes.
SETTINGS = [
    # unknown, misspelt, of another type
    ("--lerning-rate 1", 2, "--lerning-rate, 1; Perhaps you meant: --learning-rate"),
    ("--stps 3", 2, "--stps, 3; Perhaps you meant: --steps"),
    ("extra", 2, "extra"),
    ("--steps ten", 2, "--steps: invalid literal for int() with base 10: 'ten'"),
    ("--steps ''", 2, "--steps"),
    ("--steps", 2, "--steps"),
    ("--seed 1.5", 2, "'1.5'"),
    ("--gradient-clip off", 2, "no type matching FLOAT|{none} could be instantiated from ['off']"),
    ("--compute-dtype float16", 2, "Expected one of ('auto', 'float32', 'bfloat16')"),
    ("--tie-head yes", 2, "yes"),
    # numbers outside their ranges
    ("--steps 0", 2, "steps is 0; it must be 1 or more"),
    ("--steps 100000000", 2, "steps is 100000000; it must be at most 99999999"),
    ("--batch-size -8", 2, "batch_size is -8; it must be 1 or more"),
    ("--context-length 0", 2, "context_length is 0"),
    ("--num-layers -1", 2, "num_layers is -1"),
    ("--num-heads 0", 2, "num_heads is 0"),
    ("--embed-dim 0", 2, "embed_dim is 0"),
    ("--vocab-size -1", 2, "vocab_size is -1"),
    ("--evaluate-every 0", 2, "evaluate_every is 0"),
    ("--sample-tokens 1000001", 2, "sample_tokens is 1000001; it must be from 1 to 1,000,000"),
    ("--learning-rate nan", 2, "learning_rate is nan; it must be a finite number"),
    ("--learning-rate 1e400", 2, "learning_rate is inf; it must be a finite number"),
    ("--attention cudnn", 2, "attention cudnn needs an NVIDIA GPU, not cpu; take auto or chunked"),
    ("--unroll -1", 2, "unroll is -1; it must be 0 or more"),
    ("--dropout=-inf", 2, "dropout is -inf; it must be a finite number"),
    ("--learning-rate 0", 2, "learning_rate is 0.0; it must be above 0"),
    ("--dropout 1", 2, "dropout is 1.0; it must be in [0, 1)"),
    ("--dropout -0.1", 2, "dropout is -0.1"),
    ("--beta1 1", 2, "beta1 is 1.0; it must be in [0, 1)"),
    ("--beta2 -1", 2, "beta2 is -1.0"),
    ("--epsilon 0", 2, "epsilon is 0.0; it must be above 0"),
    ("--weight-decay -1", 2, "weight_decay is -1.0; it must be 0 or more"),
    ("--gradient-clip 0", 2, "gradient_clip is 0.0; it must be above 0, and none disables"),
    ("--gradient-clip -1", 2, "none disables clipping"),
    ("--seed -1", 2, "seed is -1; it must be 0 or more"),
    ("--seed 4294967296", 2, "seed is 4294967296; it must be at most 4294967295"),
    ("--validation-fraction 1.5", 2, "validation_fraction is 1.5; it must be between 0 and 1"),
    ("--stories-bytes 1", 2, "stories_bytes is 1; it must be 10000 or more"),
    ("--tokenizer bpe:200", 2, "write bpe:N with N of 257 or more"),
    *((f"--{name} {HUGE}", 2, "is a number of 401 digits; it must be at most ") for name in COUNTS),
    (f"--num-layers {'9' * 5000}", 2, "--num-layers: Exceeds the limit"),
    # flags given twice
    ("--seed 1 --seed 2", 2, "--seed is given twice; give it once"),
    ("--seed=1 --fsdp 1 --seed=1 --seed 3", 2, "--seed is given 3 times; give it once"),
    ("--tie-head --no-tie-head", 2, "--tie-head is given twice"),
    ("--batch_size 8 --batch-size 8", 2, "--batch-size is given twice"),
    ("--tokenizer bpe:1000001", 2, "257 or more, and at most 1,000,000"),
    (f"--tokenizer bpe:1{'0' * 300}", 2, "257 or more, and at most 1,000,000"),
    (f"--tokenizer bpe:{'9' * 5000}", 2, "257 or more, and at most 1,000,000"),
    # numbers that do not go together
    ("--warmup-steps 100", 2, "warmup_steps is 100, but the run has only 100 steps"),
    ("--num-heads 5", 2, "num_heads is 5, which does not divide embed_dim 32; nearby divisors"),
    ("--embed-dim 2147483647", 2, "nearby divisors"),
    ("--vocab-size 100", 2, "vocab_size is 100, but tokenizer bytes has 256 ids"),
    ("--batch-size 12", 2, "a multiple of 8 (8 devices times gradient_accumulation 1), such as 16"),
    ("--gradient-accumulation 3", 2, "a multiple of 24"),
    ("--data-parallel 3", 2, "mesh data=3,fsdp=1,tensor=1 takes 3, but there are 8"),
    ("--fsdp 16", 2, "data=1,fsdp=16,tensor=1 takes 16, but there are 8"),
    ("--overwrite --resume must", 2, "drop one of the two"),
    ("--num-layers 1000000000", 6, "parameters x 16 bytes"),
    ("--context-length 1000000000", 6, "but a device has"),
    # places
    ("--platform gpu", 2, "--platform gpu: no such device here; available: cpu"),
    ("--platform abacus", 2, "Expected one of ('auto', 'cpu', 'gpu', 'tpu')"),
    ("--out text.txt", 2, "--out text.txt is a file"),
    ("--out none/out", 2, "there is no folder none; make it first"),
    ("--out full", 2, "--out full holds file but no run"),
    (f"--out {'a' * 300}", 2, "name is too long"),
    ("--resume must", 4, "--resume must, but out holds no run; use --resume auto"),
    # data: missing, not files, empty, too short, not text
    ("--data none.txt", 3, "none.txt: no such file or folder"),
    ("--data *.none", 3, "*.none: no file matches this pattern"),
    ("--data text.txt none.txt", 3, "none.txt: no such file or folder"),
    (f"--data {'a' * 300}", 3, "no such file or folder"),
    ("--data stories text.txt", 2, "--data stories cannot be mixed"),
    ("--data text.txt=0.5 other.txt", 2, "has other.txt without a weight beside text.txt=0.5"),
    ("--data text.txt=1 other.txt=0", 2, "gives other.txt the weight 0; it must be above 0"),
    ("--data text.txt=1 none.txt=1", 3, "none.txt: no such file"),
    ("--data text.txt=1 short.txt=1", 3, "the train split: short.txt: 18 tokens are too few"),
    ("--data text.txt=1 other.txt=2 --validation-data short.txt", 2, "of a mixture, a share"),
    ("--data fifo.txt", 3, "fifo.txt: not a regular file"),
    ("--data fifos", 3, "fifos/fifo.txt: not a regular file"),
    ("--data /dev/zero", 3, "/dev/zero: not a regular file"),
    ("--data dangling.txt", 3, "dangling.txt: a symbolic link to nothing"),
    ("--data full", 3, "full: the folder holds no .txt, .jsonl, .json, .csv, .tsv"),
    ("--data empty.txt", 3, "empty.txt: the file is empty"),
    ("--data short.txt", 3, "the train split: 18 tokens are too few for one window of 64"),
    ("--data short_end.txt --batch-size 8", 3, "the validation split: 60 tokens are too few"),
    ("--data text.txt --batch-size 800", 3, "too few for a batch of 800"),
    ("--data utf16.txt", 3, "not UTF-8 at byte 0 (0xff); it looks like UTF-16"),
    ("--data latin1.txt", 3, "latin1.txt: not UTF-8 at byte 3 (0xe9)"),
    ("--data text.txt.gz", 3, "not UTF-8 at byte 1 (0x8b); it looks gzip-compressed"),
    ("--data bytes.txt", 3, "bytes.txt: not UTF-8 at byte 128 (0x80)"),
    ("--data bad.jsonl", 3, 'bad.jsonl:2: no field "text"'),
    ("--data text.txt --sample-prompt \udcff", 3, "sample_prompt"),
    ("--data record.json", 3, "record.json: holds one dict; it must be a list of objects"),
    ("--data twice.csv", 3, "twice.csv:1: the column 'text' is named twice"),
    ("--data text.txt --validation-data none.txt", 3, "none.txt: no such file"),
    ("--data text.txt --validation-data fifo.txt", 3, "fifo.txt: not a regular file"),
    ("--validation-data text.txt", 2, "stories hold out their own end"),
    ("--data text.txt --validation-data other.txt --validation-fraction 0.2", 2, "drop one of"),
    ("--data tokens --validation-fraction 0.1", 2, "has no effect on tokens, which is tokens"),
    ("--data tokens --validation-data text.txt", 2, "validation_data goes with text; tokens is"),
    ("--data tokens --text-field body", 2, "--text-field has no effect on tokens"),
    ("--data tokens --stories-bytes 20000", 2, "--stories-bytes is for --data stories alone"),
    ("--data text.txt --stories-bytes=20000", 2, "--stories-bytes is for --data stories alone"),
    ("--data bad.jsonl --text-field ''", 2, "text_field is empty"),
    # tokenizers
    ("--tokenizer none", 3, "no tokenizer 'none'"),
    ("--tokenizer fifo.txt", 3, "no tokenizer 'fifo.txt'"),
    (f"--tokenizer {'a' * 300}", 3, "no tokenizer"),
    ("--tokenizer full", 3, "full/tokenizer.json cannot be read"),
    ("--tokenizer garbled", 3, "garbled/ranks.tiktoken, line 1"),
    ("--tokenizer twice", 3, "is given twice"),
    ("--tokenizer gap", 3, "where 256 is due"),
    ("--tokenizer byteless", 3, "has no token for byte 0x00"),
    # token files
    ("--data truncated", 3, "truncated/train-00000.bin: not the token file it should be"),
    ("--data odd", 3, "where the manifest has"),
    ("--data appended", 3, "where the manifest has"),
    ("--data other_magic", 3, "it does not begin like a token file"),
    ("--data other_version", 3, "format version 16777216, and this is for 1"),
    ("--data other_width", 3, "its ids take 4 bytes"),
    ("--data other_id", 3, "it has the id 65535, outside [0, 256)"),
    ("--data lacking", 3, "cannot be read"),
    ("--data piped", 3, "piped/train-00000.bin is a pipe"),
    ("--data flipped --verify-data", 3, "its sha256 sum is"),
    (
        "--data flipped --steps 20",
        3,
        "flipped/train-00000.bin: not the token file it should be",
    ),
    ("--data other_sums", 3, "other_sums/sums.bin: damaged"),
    ("--data lacking_sums", 3, "lacking_sums/sums.bin cannot be read"),
    ("--data lacking_seal", 3, "lacking_seal/manifest.json: damaged (ValueError: its sum"),
    ("--data other_tokenizer", 3, "its tokens are from bytes ("),
    ("--data no_json", 3, "no_json/manifest.json: not JSON"),
    ("--data outside", 3, "outside/manifest.json: damaged"),
    ("--data tokens --tokenizer bpe:300", 3, "holds tokens of bytes (256 ids), not of bpe:300"),
    ("--data tokens --tokenizer vocabulary", 3, "set --tokenizer tokens/tokenizer"),
]

COMMANDS = [
    (f"train.py tiny {'' if '--out ' in flags else '--out out '}{flags}", *rest)
    for flags, *rest in SETTINGS
] + [
    ("completion.py tcsh", 2, "invalid choice 'tcsh'"),
    # presets and config files
    ("train.py tinny", 2, "no preset is called tinny (did you mean tiny?)"),
    ("train.py none.json", 2, "none.json cannot be read: No such file"),
    (f"train.py {'a' * 300}.json", 2, "cannot be read: File name too long"),
    ("train.py folder.json", 2, "folder.json is a folder, not a regular file"),
    ("train.py fifo.toml", 2, "fifo.toml is a pipe, socket or device"),
    ("train.py run.yaml", 2, "run.yaml is neither .json nor .toml"),
    (
        "train.py syntax.json",
        2,
        "syntax.json is not JSON: Expecting ':' delimiter at line 2",
    ),
    ("train.py syntax.toml", 2, "syntax.toml cannot be used: Invalid value (at line 2, column 9)"),
    ("train.py twice.json", 2, "twice.json cannot be used: key steps stands twice"),
    (
        "train.py nan.json",
        2,
        "nan.json cannot be used: NaN is not a number that a setting",
    ),
    ("train.py inf.toml", 2, "learning_rate is inf; it must be a finite number"),
    ("train.py bomb.json", 2, "bomb.json cannot be used: it is nested too deeply"),
    ("train.py huge.json", 2, "the number 10000000000000000000... (401 digits) is beyond 64 bits"),
    ("train.py huge.toml", 2, "huge.toml cannot be used: a number of 401 digits is beyond 64 bits"),
    ("train.py large.json", 2, "large.json has 1,000,001 bytes; at most 1,000,000 are read"),
    ("train.py list.json", 2, "list.json holds a list"),
    ("train.py key.json", 2, "optimizer.lerning_rate is not a setting (did you mean learning_rate"),
    ("train.py type.json", 2, "steps is 'ten'; it must be an int"),
    ("train.py latin1.json", 2, "latin1.json"),
    # the default folder's parent, which is not there either
    ("train.py tiny --data none.txt", 3, "none.txt"),
    # memory
    ("train.py gpt2-xl --batch-size 8 --gradient-accumulation 1 --num-layers 99999", 6, " GB"),
    # a folder with a run
    ("train.py run.json --out run --resume never", 2, "run holds a run; name another --out"),
    ("train.py run.json --out run --num-layers 2", 4, "model.num_layers: 1 -> 2"),
    ("train.py run.json --out run --learning-rate 1e-4", 4, "learning_rate: 0.003 -> 0.0001"),
    ("train.py run.json --out run --batch-size 16", 4, "batch_size: 8 -> 16"),
    ("train.py run.json --out run --seed 1", 4, "seed: 0 -> 1"),
    ("train.py run.json --out run --compute-dtype bfloat16", 4, "float32 -> bfloat16"),
    ("train.py run.json --out run --steps 3", 4, "steps: 2 -> 3"),
    ("train.py run.json --out run --num-layers 2 --allow-config-change", 4, "other arrays"),
    ("train.py run.json --out run --data other.txt --allow-config-change", 4, "--allow-data-chang"),
    ("train.py run.json --out run --data none.txt --overwrite", 3, "none.txt"),
    ("train.py run.json --out newer", 4, "was written by jaxgpt 9.0, which is newer"),
    # a folder that is not all a run's
    ("train.py run.json --out web", 2, "--out web holds index.html but no run; name a new or"),
    ("train.py run.json --out web --overwrite", 2, "it holds index.html, and nothing proves that"),
    ("train.py run.json --out alone", 2, "--out alone holds config.json but no run"),
    ("train.py run.json --out alone --overwrite", 2, "--out alone holds config.json but no run"),
    ("train.py run.json --out gpt --overwrite", 2, "nothing proves that jaxgpt wrote that"),
    ("train.py run.json --out noted --overwrite", 2, "it holds checkpoints/a, notes.txt, plots/b"),
    ("train.py run.json --out linked --overwrite", 2, "it holds README.md, and nothing proves"),
    ("train.py run.json --out run --data run/tokens --overwrite", 2, "which is read, lies in it"),
    ("train.py tiny --init-from run --out run --overwrite", 2, "run, which is read, lies in it"),
    (
        f"{CLASSIFIER.replace('--out out', '--out web')} labels.tsv --overwrite",
        2,
        "it holds index.html, and nothing pro",
    ),
    (
        f"{INSTRUCTIONS.replace('--out out', '--out web')} records.jsonl",
        2,
        "--out web holds index.html but no run",
    ),
    ("assistant.py --out web", 2, "--out web holds config.json but no assistant"),
    ("assistant.py --out web --overwrite", 2, "--out web holds config.json but no assistant"),
    # beginning with a model
    ("train.py tiny --out out --init-from", 2, "--init-from"),
    ("train.py tiny --out out --init-from none", 4, "none: no such folder"),
    (f"train.py tiny --out out --init-from {'a' * 300}", 4, "no such folder"),
    ("train.py tiny --out out --init-from text.txt", 4, "text.txt is a file; name the folder"),
    ("train.py tiny --out out --init-from bert", 4, "model_type is 'bert'; only gpt2"),
    ("train.py tiny --out out --init-from wordless", 3, "wordless has no tokenizer; name one by"),
    ("train.py tiny --out out --init-from pickled", 4, "pickle refused; convert to safetensors"),
    ("train.py tiny --out out --init-from torn", 4, "2 missing: h.0.ln_1.bias, h.0.mlp.c_fc.bias"),
    ("train.py tiny --out out --init-from not_finite", 4, "h.0.mlp.c_fc.weight has numbers that"),
    ("train.py tiny --out out --init-from no_manifest", 4, "manifest.json holds a list"),
    ("train.py tiny --out out --init-from gpt --num-layers 3", 2, "num_layers: 1 -> 3"),
    ("train.py tiny --out out --init-from gpt --num-heads 4", 2, "num_heads: 2 -> 4"),
    ("train.py tiny --out out --init-from gpt --embed-dim 16", 2, "embed_dim: 8 -> 16"),
    ("train.py tiny --out out --init-from gpt --vocab-size 256", 2, "vocab_size: 300 -> 256"),
    (
        "train.py tiny --out out --init-from gpt --context-length 17",
        2,
        "decides the model, but for",
    ),
    ("train.py tiny --out out --init-from run --gelu erf", 2, "gelu: tanh -> erf"),
    ("train.py tiny --out out --init-from gpt --dropout 1", 2, "dropout is 1.0"),
    ("train.py init_from.json --out out", 2, "--init-from gpt decides the model"),
    # planning
    ("plan.py tinny", 2, "no preset is called tinny (did you mean tiny?)"),
    ("plan.py none.toml", 2, "none.toml cannot be read: No such file"),
    ("plan.py tiny --memory 80", 2, "memory is '80'; write a number with its unit, such as 80GB"),
    ("plan.py tiny --memory 0GB", 2, "memory is '0GB'"),
    ("plan.py tiny --batch-sise 8", 2, "meant: --batch-size"),
    ("plan.py tiny --tokenizer cl100k_base", 2, "cl100k_base has is not known; set --vocab-size"),
    ("plan.py tiny --tokenizer garbled", 3, "garbled/ranks.tiktoken, line 1"),
    ("plan.py tiny --batch-size 12", 2, "must be a multiple of 8"),
    ("plan.py tiny --memory 1GB --fsdp 3", 2, "batch_size is 16; it must be a multiple of 3"),
    ("plan.py gpt2 --num-layers 2147483647", 6, "choose a smaller model"),
    (f"plan.py tiny --batch-size {HUGE}", 2, "batch_size is a number of 401 digits; it must be at"),
    ("plan.py tiny --json folder.json", 2, "--json folder.json is a folder; name a file"),
    (f"plan.py tiny --memory {HUGE}GB", 2, "write a number with its unit, such as 80GB"),
    ("plan.py tiny --json plan.txt", 2, "--json is plan.txt; its name must end in .json"),
    ("plan.py tiny --init-from none", 4, "none: no such folder"),
    # sweeping
    ("sweep.py tiny --seeds 0,one", 2, "--seeds is '0,one'; write whole numbers with commas"),
    ("sweep.py tiny --seeds 1,1", 2, "seeds has [1] more than once; give each once"),
    ("sweep.py tiny --seeds 4294967296", 2, "seed is 4294967296; it must be at most 4294967295"),
    ("sweep.py tiny --learning-rates 1e-3,nan", 2, "learning_rate is nan; it must be a finite"),
    ("sweep.py tiny --learning-rates 1e-3;2", 2, "write numbers with commas between"),
    ("sweep.py tiny --seed 3", 2, "--seed is for one run; a sweep takes --seeds"),
    ("sweep.py tiny --init-from run", 2, "init_from is run; a sweep begins anew, drop it"),
    ("sweep.py tiny --csv table.txt", 2, "--csv is table.txt; its name must end in .csv"),
    ("sweep.py tiny --data empty.txt", 3, "empty.txt"),
    ("sweep.py tiny --batch-size 12", 2, "must be a multiple of 8"),
    # preparing data
    ("prepare_data.py --data text.txt --out out --shards 0", 2, "shards is 0; it must be from 1"),
    (
        "prepare_data.py --data text.txt --out out --shards 2",
        2,
        "goes with data that is downloaded",
    ),
    ("prepare_data.py --data text.txt --out out --stories-bytes 20000", 2, "stories alone"),
    ("prepare_data.py --data text.txt", 2, "Missing from jaxgpt prepare: --out"),
    ("prepare_data.py --data text.txt --out out --tokeniser bytes", 2, "meant: --tokenizer"),
    ("prepare_data.py --data none.txt --out out --tokenizer bytes", 3, "none.txt: no such file"),
    ("prepare_data.py --data fifo.txt --out out --tokenizer bytes", 3, "not a regular file"),
    ("prepare_data.py --data latin1.txt --out out --tokenizer bytes", 3, "not UTF-8 at byte 3"),
    ("prepare_data.py --data text.txt --out out --tokenizer none", 3, "no tokenizer 'none'"),
    ("prepare_data.py --data text.txt --out out --tokenizer bpe:9", 2, "bpe:N with N of 257"),
    ("prepare_data.py --data text.txt --out out --validation-fraction nan", 2, "a finite number"),
    ("prepare_data.py --data text.txt --out tokens --tokenizer bytes", 2, "set --overwrite"),
    ("prepare_data.py --data text.txt --out full --overwrite --tokenizer bytes", 2, "overwritten"),
    ("prepare_data.py --data text.txt --out text.txt --tokenizer bytes", 2, "a file has this name"),
    ("prepare_data.py --data text.txt --out none/out --tokenizer bytes", 2, "does not exist"),
    (f"prepare_data.py --data text.txt --out {'a' * 300} --tokenizer bytes", 2, "too long"),
    # training a vocabulary
    ("train_tokenizer.py --data text.txt --out out --vocab-size 256", 2, "must be 257 or more"),
    ("train_tokenizer.py --data text.txt --out out --vocab-size x", 2, "--vocab-size"),
    ("train_tokenizer.py --data text.txt --out out --strict", 3, "too small for vocab_size 4096"),
    ("train_tokenizer.py --data fifo.txt --out out", 3, "not a regular file"),
    ("train_tokenizer.py --data utf16.txt --out out", 3, "it looks like UTF-16"),
    ("train_tokenizer.py --data text.txt --out full", 2, "set --overwrite"),
    ("train_tokenizer.py --data text.txt --out text.txt", 2, "a file has this name"),
    ("train_tokenizer.py --data text.txt --out none/out", 2, "does not exist"),
    # generating
    ("generate.py --checkpoint run", 2, "Missing from jaxgpt generate: --prompt"),
    ("generate.py --prompt a --checkpoint none", 4, "none holds no checkpoint"),
    ("generate.py --prompt a --checkpoint text.txt", 4, "text.txt holds no checkpoint"),
    ("generate.py --prompt a --checkpoint fifo.txt", 4, "fifo.txt holds no checkpoint"),
    (f"generate.py --prompt a --checkpoint {'a' * 300}", 4, "holds no checkpoint"),
    ("generate.py --prompt a --checkpoint newer", 4, "was written by jaxgpt 9.0"),
    ("generate.py --prompt a --checkpoint outwards", 4, "no name of a file inside it"),
    ("generate.py --prompt a --checkpoint no_manifest", 4, "manifest.json holds a list"),
    ("generate.py --prompt a --checkpoint changed", 4, "config.json has changed since it was"),
    (f"generate.py --checkpoint run --prompt {'a' * 17}", 2, "17 tokens, but the context has room"),
    ("generate.py --checkpoint run --prompt \udcff", 3, "not UTF-8: byte 0xff at offset 0"),
    ("generate.py --checkpoint run --prompt a --temperature -1", 2, "temperature is -1.0"),
    ("generate.py --checkpoint run --prompt a --temperature nan", 2, "temperature is nan"),
    ("generate.py --checkpoint run --prompt a --top-k -1", 2, "top_k is -1"),
    ("generate.py --checkpoint run --prompt a --top-p 0", 2, "top_p is 0.0"),
    ("generate.py --checkpoint run --prompt a --top-p 1.5", 2, "top_p is 1.5"),
    (f"generate.py --checkpoint run --prompt a --top-k {HUGE}", 2, "top_k is a number of 401"),
    ("generate.py --checkpoint run --prompt a --temperature 1e300", 2, "from 1e-6 to 1e6"),
    ("generate.py --checkpoint run --prompt a --repetition-penalty 1e-50", 2, "from 1e-6 to 1e6"),
    (f"evaluate.py --checkpoint run --data text.txt --batch-size {HUGE}", 2, "batch_size is a"),
    (f"evaluate.py --checkpoint run --data text.txt --stride {HUGE}", 2, "stride is a number of"),
    (f"{CLASSIFIER} labels.tsv --rank {HUGE}", 2, "rank is a number of 401 digits"),
    (f"{CLASSIFIER} labels.tsv --epochs {HUGE}", 2, "epochs is a number of 401 digits"),
    (f"prepare_data.py --data text.txt --out out --shards {HUGE}", 2, "shards is a number of"),
    ("generate.py --checkpoint run --prompt a --max-new-tokens 0", 2, "from 1 to 1,000,000"),
    ("generate.py --checkpoint run --prompt a --max-new-tokens 1000001", 2, "from 1 to 1,000,000"),
    ("generate.py --checkpoint run --prompt a --seed -1", 2, "seed is -1"),
    ("generate.py --checkpoint run --prompt a --tempreature 1", 2, "meant: --temperature"),
    ("generate.py --prompt a", 2, "name the model by one of --checkpoint and --init-from"),
    ("generate.py --prompt a --checkpoint run --init-from gpt", 2, "by one of --checkpoint and"),
    ("generate.py --prompt a --checkpoint run --tokenizer bytes", 2, "goes with --init-from"),
    ("generate.py --prompt a --init-from none", 4, "none: no such folder"),
    ("generate.py --prompt a --init-from pickled", 4, "pytorch_model.bin: pickle refused"),
    ("generate.py --prompt a --init-from wordless", 3, "name one by --tokenizer, such as bytes"),
    ("generate.py --prompt a --init-from wordless --tokenizer vocabulary/x", 3, "no tokenizer"),
    (
        "generate.py --prompt a --init-from narrow",
        2,
        "has 256 ids, but the model in narrow only",
    ),
    ("generate.py --prompt a --init-from outwards", 4, "no name of a file inside it"),
    # evaluating
    ("evaluate.py --data text.txt", 2, "name the model by one of --checkpoint and --init-from"),
    ("evaluate.py --data text.txt --init-from gpt --checkpoint run", 2, "by one of --checkpoint"),
    ("evaluate.py --data text.txt --init-from not_finite", 4, "numbers that are not finite"),
    ("evaluate.py --data text.txt --init-from wordless", 3, "wordless has no tokenizer"),
    (
        "evaluate.py --data text.txt --init-from foreign",
        3,
        "spiece.model is the vocabulary, and it",
    ),
    ("evaluate.py --checkpoint run", 2, "Missing from jaxgpt evaluate: --data"),
    ("evaluate.py --data text.txt --checkpoint none", 4, "none holds no checkpoint"),
    ("evaluate.py --data text.txt --checkpoint newer", 4, "was written by jaxgpt 9.0"),
    ("evaluate.py --data none.txt --checkpoint run", 3, "none.txt: no such file or folder"),
    ("evaluate.py --data fifo.txt --checkpoint run", 3, "fifo.txt: not a regular file"),
    ("evaluate.py --data latin1.txt --checkpoint run", 3, "not UTF-8 at byte 3"),
    ("evaluate.py --data text.txt --checkpoint run --batch-size -1", 2, "batch_size"),
    ("evaluate.py --data text.txt --checkpoint run --stride -1", 2, "stride"),
    ("evaluate.py --data text.txt --checkpoint run --strid 1", 2, "meant: --stride"),
    (
        "evaluate.py guess --data text.txt",
        2,
        "evaluate has no 'guess'; the first word is one of text",
    ),
    ("evaluate.py answers --init-from gpt", 2, "Missing from jaxgpt evaluate: --data"),
    ("evaluate.py answers --init-from gpt --data broken.jsonl", 3, "broken.jsonl:2: not JSON"),
    ("evaluate.py answers --init-from gpt --data bad.jsonl", 3, 'bad.jsonl:1: no field "instruct'),
    ("evaluate.py answers --init-from gpt --data choices.jsonl --limit -1", 2, "limit is -1"),
    ("evaluate.py answers --init-from gpt --data bad.jsonl --out bad.jsonl", 2, "among the data"),
    (
        "evaluate.py answers --init-from gpt --data bad.jsonl --out none/a.jsonl",
        2,
        "does not exist",
    ),
    ("evaluate.py choices --init-from gpt --data bad.jsonl", 3, 'bad.jsonl:1: no field "ctx"'),
    (
        "evaluate.py choices --init-from gpt --data choices.jsonl",
        3,
        "most context_length 16 of the",
    ),
    ("evaluate.py judge --answers bad.jsonl --url x --model m", 2, "must begin with http"),
    ("evaluate.py judge --answers bad.jsonl --url http://x --model m", 3, "bad.jsonl:1: no field"),
    ("evaluate.py duplicates --train bad.jsonl --test text.txt", 3, "bad.jsonl:2: no text, ctx"),
    ("evaluate.py duplicates --train a --test b --threshold 2", 2, "threshold is 2.0; it must be"),
    # fine-tuning: settings
    (f"{CLASSIFIER} labels.tsv --epochs 0", 2, "epochs is 0; it must be from 1 to"),
    (f"{CLASSIFIER} labels.tsv --trained 9", 2, "trained blocks are 9; it must be all, or from 0"),
    (f"{CLASSIFIER} labels.tsv --trained most", 2, "most"),
    (f"{CLASSIFIER} labels.tsv --rank 0 --trained lora", 2, "rank is 0; it must be from 1 to"),
    (f"{CLASSIFIER} labels.tsv --targets up ear", 2, "targets is ('up', 'ear'); it must be some"),
    (f"{CLASSIFIER} labels.tsv --test-fraction 0.95", 2, "must be below 1 - validation_fraction"),
    (f"{CLASSIFIER} labels.tsv --pooling max", 2, "Expected one of ('last', 'first', 'mean')"),
    (f"{CLASSIFIER} labels.tsv --balanced", 2, "meant: --balance"),
    (f"{CLASSIFIER} labels.tsv --steps 5 --warmup-steps 5", 2, "but the run has only 5 steps"),
    ("finetune_classifier.py --data labels.tsv --out out", 2, "--init-from"),
    ("finetune_classifier.py --init-from none --data labels.tsv --out out", 4, "no such folder"),
    (f"{PREFERENCES} pairs.jsonl --beta 0", 2, "beta is 0.0; it must be from 1e-06 to"),
    (
        f"{INSTRUCTIONS} records.jsonl".replace("phi", "llama"),
        2,
        "Expected one of ('', 'alpaca', 'phi', 'ch",
    ),
    (f"{INSTRUCTIONS} records.jsonl --special-tokens --trained 1", 2, "set --trained all"),
    # fine-tuning: records
    (f"{CLASSIFIER} none.tsv", 3, "none.tsv: no such file"),
    (f"{CLASSIFIER} text.txt", 3, "text.txt:1: no tab; a line is a label, a tab and a text"),
    (f"{CLASSIFIER} labels.parquet", 3, "the suffix must be .json (a list of objects), .jsonl"),
    (f"{CLASSIFIER} one_class.tsv", 3, "all 8 texts have the label 'ham'; give two classes"),
    (f"{CLASSIFIER} one_example.tsv", 3, "class 'spam' has only 1 different text (one at one_exa"),
    (f"{CLASSIFIER} labels.tsv --test never.tsv", 3, "never.tsv:1: the label 'eggs' is none of"),
    (f"{CLASSIFIER} wide.tsv --too-long refuse", 3, "wide.tsv:8: 70 tokens are longer than co"),
    (f"{INSTRUCTIONS} broken.jsonl", 3, "broken.jsonl:2: not JSON"),
    (f"{INSTRUCTIONS} pairs.jsonl", 3, 'pairs.jsonl:1: no field "output"; the fields are inst'),
    (f"{INSTRUCTIONS} empty.jsonl --strict", 3, 'empty.jsonl:2: "output" is empty; fill it in'),
    (f"{INSTRUCTIONS} blank.jsonl", 3, 'were left out: blank.jsonl:1: "output" is empty; blank'),
    (f"{PREFERENCES} same.jsonl", 3, "same.jsonl:1: its answers do not differ; same.jsonl"),
    (f"{CLASSIFIER} labels.tsv --test labels.tsv", 3, "all 24 texts of --test are also in --dat"),
    (f"{INSTRUCTIONS} records.jsonl --validation records.jsonl", 3, "all 4 records of --validatio"),
    (f"{INSTRUCTIONS} roles.jsonl", 3, "message 1: role is 'robot'; it must be one of system"),
    (f"{INSTRUCTIONS} long.jsonl", 3, "tokens are longer than context_length 64; shorten the reco"),
    (f"{PREFERENCES} records.jsonl", 3, 'records.jsonl:1: no field "chosen"; the fields are'),
    (f"{PREFERENCES} broken.jsonl", 3, "broken.jsonl:2: not JSON"),
    (
        "finetune_instructions.py --init-from gpt --data records.jsonl --out out",
        3,
        "tokenizer bytes has no end-of-text token",
    ),
    # classifying, chatting, making an assistant
    ("classify.py --checkpoint run --text a", 4, "this model is no classifier; make one with `"),
    ("classify.py --checkpoint run", 2, "give the text by one of --text and --file"),
    ("classify.py --checkpoint run --file empty.txt", 3, "empty.txt"),
    ("classify.py --checkpoint run --file none.txt", 3, "none.txt cannot be read: No such file"),
    ("classify.py --checkpoint run --file full", 3, "full is a folder, not a regular file"),
    ("classify.py --checkpoint run --file fifo.txt", 3, "fifo.txt is a pipe, socket or device"),
    ("classify.py --checkpoint run --file latin1.txt", 3, "latin1.txt is not UTF-8 at byte 3"),
    ("classify.py --checkpoint run --text a --base gpt", 2, "--base goes with adapters"),
    (f"{INSTRUCTIONS} records.jsonl --base gpt", 2, "--base goes with adapters"),
    ("classify.py --checkpoint none --text a", 4, "none holds no checkpoint"),
    ("chat.py --checkpoint none", 4, "none holds no checkpoint"),
    ("chat.py --checkpoint answering --temperature -1", 2, "temperature is -1.0"),
    ("assistant.py --out out --steps 1", 2, "steps is 1; it must be 2 or more"),
    ("assistant.py --out none/out", 2, "--out none/out cannot be written (No such file or dire"),
    ("assistant.py --out text.txt", 2, "--out text.txt cannot be written (File exists)"),
    ("generate.py --prompt a --checkpoint run --base gpt", 2, "--base goes with adapters"),
    (
        "finetune_instructions.py --init-from answering --data records.jsonl --out answering",
        2,
        "answering holds the model to begin with, answering; name another --out",
    ),
    (f"{CLASSIFIER} labels.tsv --seed 4294967296", 2, "seed is 4294967296; it must be at most"),
    # fine-tuning: settings that change nothing
    (f"{CLASSIFIER} labels.tsv --rank 4", 2, "--rank changes nothing without adapters; set --tr"),
    (f"{CLASSIFIER} labels.tsv --targets up", 2, "--targets changes nothing without adapters"),
    (
        f"{CLASSIFIER} labels.tsv --trained lora --weight-decay 100",
        2,
        "--weight-decay changes nothing with --trained lora, as adapters do not decay; set --wei",
    ),
    (f"{PREFERENCES} pairs.jsonl --weight-decay-on all", 2, "where nothing decays; set --weight"),
    (f"{CLASSIFIER} labels.tsv --decay-fraction 0.5", 2, "without --schedule wsd; set it, or l"),
    (f"{CLASSIFIER} labels.tsv --steps 9 --epochs 3", 2, "--epochs changes nothing where --steps"),
    (
        f"{CLASSIFIER} labels.tsv --test-fraction 0.3 --test never.tsv",
        2,
        "--test-fraction changes nothing where --test names the texts; leave that out, or leave",
    ),
    # numbers beyond all bounds
    (f"{CLASSIFIER} labels.tsv --batch-size 1000001", 2, "it must be from 1 to 1,000,000"),
    (f"{PREFERENCES} pairs.jsonl --beta 1e-60", 2, "beta is 1e-60; it must be from 1e-06 to"),
    (
        f"{INSTRUCTIONS} records.jsonl --special-tokens".replace("phi", "alpaca"),
        2,
        "has no markers to be tokens",
    ),
    # converting
    ("convert.py --model gpt --out out", 2, "Missing from jaxgpt convert: --from"),
    ("convert.py --from bert --model gpt --out out", 2, "('huggingface', 'gpt2', 'jaxgpt')"),
    ("convert.py --from gpt2 --model gpt --out out --dtype int8", 2, "--dtype"),
    ("convert.py --from gpt2 --model gpt --out full", 2, "set --overwrite"),
    ("convert.py --from gpt2 --model gpt --out text.txt", 2, "a file has this name"),
    ("convert.py --from gpt2 --model gpt --out none/out", 2, "does not exist"),
    (f"convert.py --from gpt2 --model gpt --out {'a' * 300}", 2, "too long"),
    ("convert.py --from gpt2 --model gpt --out full --overwrite", 2, "for it holds file, and noth"),
    ("convert.py --from gpt2 --model gpt --out . --overwrite", 2, "is the current folder, or hold"),
    ("convert.py --from gpt2 --model gpt --out .. --overwrite", 2, "is the current folder, or ho"),
    ("convert.py --from gpt2 --model gpt --out gpt --overwrite", 2, "gpt, which is read, lies in"),
    (
        "convert.py --from jaxgpt --model run --out run --overwrite",
        2,
        "run, which is read, lies in",
    ),
    (
        "convert.py --from jaxgpt --model run --out bert --overwrite",
        2,
        "it holds config.json, and",
    ),
    (
        "convert.py --from gpt2 --model gpt --out garbled --overwrite --tokenizer garbled",
        2,
        "garbled, which is read, lies in it",
    ),
    ("prepare_data.py --data tokens/train-00000.bin --out tokens --overwrite", 2, "which is read"),
    ("train_tokenizer.py --data text.txt --out .", 2, "is the current folder, or holds it"),
    ("convert.py --from gpt2 --model none --out out", 4, "none: no such folder"),
    (f"convert.py --from gpt2 --model {'a' * 300} --out out", 4, "no such folder"),
    ("convert.py --from gpt2 --model fifo.txt --out out", 4, "fifo.txt: no such folder"),
    ("convert.py --from gpt2 --model full --out out", 4, "full has no config.json"),
    ("convert.py --from gpt2 --model run --out out", 4, "set --from jaxgpt"),
    ("convert.py --from jaxgpt --model gpt --out out", 4, "gpt holds no checkpoint"),
    ("convert.py --from jaxgpt --model changed --out out", 4, "has changed since it was written"),
    ("convert.py --from gpt2 --model pickled --out out", 4, "pickle refused; convert to safet"),
    ("convert.py --from gpt2 --model weights.pt --out out", 4, "weights.pt: pickle refused"),
    ("convert.py --from gpt2 --model torn --out out", 4, "1 unexpected: h.0.ln_0.bias; 1 of anoth"),
    ("convert.py --from gpt2 --model cut --out out", 4, "cut/model.safetensors is damaged"),
    ("convert.py --from gpt2 --model not_finite --out out", 4, "numbers that are not finite"),
    ("convert.py --from gpt2 --model index_up --out out", 4, "'../x.safetensors', which is no"),
    ("convert.py --from gpt2 --model index_root --out out", 4, "'/x.safetensors', which is no na"),
    ("convert.py --from gpt2 --model index_nul --out out", 4, "no name of a file inside"),
    ("convert.py --from gpt2 --model gpt --out out --base gpt", 2, "--base goes with adapters"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the commands are run in: text, config files and folders, whole ones and bad ones."""
    folder = tmp_path_factory.mktemp("bad_input")
    with contextlib.chdir(folder):
        _write_texts()
        _write_configs()
        _write_tokens()
        _write_vocabularies()
        _write_runs()
        _write_models()
        _write_records()
    return folder


def _write_texts():
    Path("text.txt").write_text(TEXT)
    Path("other.txt").write_text(TEXT.replace("king", "queen"))
    Path("bom.txt").write_text(TEXT, encoding="utf-8-sig")
    Path("crlf.txt").write_bytes(TEXT.replace("\n", "\r\n\0\x1b[31m").encode())
    Path("empty.txt").touch()
    Path("short.txt").write_text("Twenty bytes of text")
    Path("short_end.txt").write_text("a" * 600)
    Path("utf16.txt").write_text(TEXT, encoding="utf-16")
    Path("latin1.txt").write_bytes("café\n".encode("latin-1"))
    Path("text.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    Path("bytes.txt").write_bytes(bytes(range(256)))
    Path("record.json").write_text('{"text": "a"}')
    Path("twice.csv").write_text("text,label,Text\na,b,c\n")
    Path("bad.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    Path("broken.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction":\n')
    ending = "an ending longer than the context"
    Path("choices.jsonl").write_text(f'{{"ctx": "a", "endings": ["b", "{ending}"], "label": 0}}\n')
    os.mkfifo("fifo.txt")
    Path("fifos").mkdir()
    os.mkfifo("fifos/fifo.txt")
    Path("dangling.txt").symlink_to("none.txt")
    Path("full").mkdir()
    Path("full/file").touch()


def _write_configs():
    Path("run.json").write_text(json.dumps(RUN))
    Path("folder.json").mkdir()
    os.mkfifo("fifo.toml")
    Path("run.yaml").touch()
    Path("syntax.json").write_text('{"steps": 1,\n "steps" 2}')
    Path("syntax.toml").write_text("seed = 1\nsteps = \n")
    Path("twice.json").write_text('{"steps": 1, "steps": 2}')
    Path("nan.json").write_text('{"optimizer": {"learning_rate": NaN}}')
    Path("inf.toml").write_text("[optimizer]\nlearning_rate = inf\n")
    Path("huge.json").write_text(f'{{"optimizer": {{"learning_rate": {HUGE}}}}}')
    Path("huge.toml").write_text(f"[optimizer]\nlearning_rate = {HUGE}\n")
    Path("bomb.json").write_text("[" * 100_000)
    Path("large.json").write_text(" " * 1_000_001)
    Path("list.json").write_text("[]")
    Path("key.json").write_text('{"optimizer": {"lerning_rate": 1}}')
    Path("type.json").write_text('{"steps": "ten"}')
    Path("init_from.json").write_text('{"preset": "tiny", "init_from": "gpt"}')
    Path("latin1.json").write_bytes('{"sample_prompt": "é"}'.encode("latin-1"))


def _write_tokens():
    from jaxgpt.data.prepare import prepare
    from jaxgpt.tokenization.bpe import train_bpe
    from jaxgpt.tokenization.tokenizer import ByteTokenizer

    prepare(["text.txt"], ByteTokenizer(), "tokens")
    whole = Path("tokens", SHARD).read_bytes()
    manifest = Path("tokens/manifest.json").read_text()
    # The header: magic word (8 bytes), version (4), width of an id (4), number of ids (8).
    changes = {
        "truncated": whole[:-100],
        "odd": whole[:-1],
        "appended": whole + b"\0\0",
        "other_magic": b"X" + whole[1:],
        "other_version": whole[:8] + b"\0\0\0\1" + whole[12:],
        "other_width": whole[:12] + b"\4" + whole[13:],
        "other_id": whole[:24] + b"\xff\xff" + whole[26:],
        "flipped": whole[:24] + bytes([whole[24] ^ 1]) + whole[25:],
    }
    sums = ("other_sums", "lacking_sums", "lacking_seal")
    for name in (*changes, "lacking", "piped", "no_json", "outside", "other_tokenizer", *sums):
        shutil.copytree("tokens", name)
    for name, content in changes.items():
        Path(name, SHARD).write_bytes(content)
    Path("lacking", SHARD).unlink()
    Path("piped", SHARD).unlink()
    os.mkfifo(Path("piped", SHARD))
    Path("other_sums/sums.bin").write_bytes(b"abcd")
    Path("lacking_sums/sums.bin").unlink()
    Path("lacking_seal/manifest.json").write_text(
        re.sub(r',\s*"sha256": "\w+"\s*}$', "}", manifest)
    )
    shutil.rmtree("other_tokenizer/tokenizer")
    train_bpe([TEXT], 265).save(Path("other_tokenizer/tokenizer"))
    Path("no_json/manifest.json").write_text("{")
    Path("outside/manifest.json").write_text(manifest.replace(SHARD, "../x.bin"))


def _write_vocabularies():
    from jaxgpt.tokenization.bpe import train_bpe

    train_bpe([TEXT], 265).save(Path("vocabulary"))
    ranks = Path("vocabulary/ranks.tiktoken").read_bytes().splitlines(keepends=True)
    changes = {
        "garbled": [b"nonsense\n"],
        "twice": [*ranks, ranks[-1]],
        "gap": ranks[:256] + ranks[257:],
        "byteless": ranks[1:],
    }
    for name, lines in changes.items():
        shutil.copytree("vocabulary", name)
        Path(name, "ranks.tiktoken").write_bytes(b"".join(lines))


def _write_runs():
    from jaxgpt.config_file import load_config
    from jaxgpt.files import seal
    from jaxgpt.training.pretrain import pretrain

    pretrain(load_config("run.json"), "run", sampler=lambda *_: "a sample")
    for name in ("newer", "outwards", "no_manifest", "changed", "noted", "linked"):
        shutil.copytree("run", name)
    manifest = json.loads(Path("run/checkpoints/00000002/manifest.json").read_text())
    for name, content in {
        "newer": seal(manifest | {"format": 9, "written_by": "jaxgpt 9.0"}),
        "outwards": seal(manifest | {"files": {"../text.txt": "0"}, "sizes": {"../text.txt": 0}}),
        "no_manifest": b"[]",
    }.items():
        Path(name, "checkpoints/00000002/manifest.json").write_bytes(content)
    Path("changed/checkpoints/00000002/config.json").write_text("{}")
    Path("noted/plots").mkdir()
    for name in ("notes.txt", "plots/b", "checkpoints/a"):
        Path("noted", name).touch()
    Path("linked/README.md").rename("card.md")
    Path("linked/README.md").symlink_to("../card.md")
    for name in ("web", "alone"):
        Path(name).mkdir()
        Path(name, "config.json").write_text('{"name": "a web project"}')
    Path("web/index.html").touch()


def _write_models():
    from safetensors.numpy import load_file, save_file

    from jaxgpt.config import ModelConfig
    from jaxgpt.huggingface.weights import save_gpt2
    from jaxgpt.model.parameters import init_params
    from jaxgpt.tokenization.tokenizer import ByteTokenizer

    sizes = {"context_length": 16, "num_layers": 1, "num_heads": 2, "embed_dim": 8}
    for name, vocab_size in {"gpt": 300, "narrow": 99}.items():
        model = ModelConfig(vocab_size=vocab_size, **sizes)
        save_gpt2(name, model, init_params(model, jax.random.key(0)), tokenizer=ByteTokenizer())
    copies = ("bert", "wordless", "torn", "not_finite", "cut")
    for name in (*copies, "pickled", "index_up", "index_root", "index_nul"):
        shutil.copytree("gpt", name)
    config = json.loads(Path("gpt/config.json").read_text())
    Path("bert/config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    shutil.rmtree("wordless/tokenizer")
    os.remove("wordless/tokenizer.json")
    shutil.copytree("wordless", "foreign")
    Path("foreign/spiece.model").write_bytes(b"\x0a\x05<unk>")
    tensors = load_file("gpt/model.safetensors")
    block = "transformer.h.0."
    torn = {name: tensor for name, tensor in tensors.items() if "mlp.c_fc.bias" not in name}
    torn[f"{block}ln_0.bias"] = torn.pop(f"{block}ln_1.bias")
    torn["transformer.wpe.weight"] = torn["transformer.wpe.weight"][:9]
    save_file(torn, "torn/model.safetensors")
    tensors[f"{block}mlp.c_fc.weight"][2, 3] = float("nan")
    save_file(tensors, "not_finite/model.safetensors")
    Path("cut/model.safetensors").write_bytes(Path("gpt/model.safetensors").read_bytes()[:-1])
    Path("pickled/model.safetensors").rename("pickled/pytorch_model.bin")
    Path("weights.pt").write_bytes(b"\x80\4")
    targets = {"index_up": "../x.safetensors", "index_root": "/x.safetensors"}
    for name, target in (targets | {"index_nul": "\0.safetensors"}).items():
        index = {"weight_map": {"wte.weight": target}}
        Path(name, "model.safetensors.index.json").write_text(json.dumps(index))
        Path(name, "model.safetensors").unlink()


def _write_records():
    from jaxgpt.config import ModelConfig, TrainConfig
    from jaxgpt.model.parameters import init_params
    from jaxgpt.tokenization.tokenizer import load_tokenizer
    from jaxgpt.training.checkpoint import LoadedModel, save_model

    sizes = {"context_length": 64, "num_layers": 1, "num_heads": 2, "embed_dim": 8}
    model, tokenizer = ModelConfig(vocab_size=265, **sizes), load_tokenizer(Path("vocabulary"))
    params = init_params(model, jax.random.key(0))
    save_model("answering", LoadedModel(model, params, tokenizer, 0, TrainConfig(model=model)))
    ham, spam = ([f"{name}\t{name} {i}\n" for i in range(4)] for name in ("ham", "spam"))
    many = [f"{name}\t{name} {i}\n" for i in range(12) for name in ("ham", "spam")]
    Path("labels.tsv").write_text("".join(many))
    Path("wide.tsv").write_text("".join([*ham, *spam[:3], f"spam\t{'?' * 70}\n"]))
    Path("one_class.tsv").write_text("".join(ham * 2))
    Path("one_example.tsv").write_text("".join([*ham, spam[0]]))
    Path("never.tsv").write_text("eggs\ta\n")
    Path("labels.parquet").write_text("a")
    record = {"instruction": "a", "output": "b"}
    for name, records in {
        "records": [record | {"instruction": f"{i}"} for i in range(4)],
        "empty": [record, record | {"output": " "}],
        "blank": [record | {"output": ""}, record | {"instruction": None}],
        "same": [{"prompt": f"{i}", "chosen": "b", "rejected": "b"} for i in range(4)],
        "long": [record, {"instruction": "?", "output": "?" * 99}],
        "pairs": [{"instruction": "a", "chosen": "b", "rejected": f"{i}"} for i in range(4)],
        "roles": [{"messages": [{"role": "robot", "content": "a"}]}],
    }.items():
        lines = [json.dumps(item) + "\n" for item in records]
        Path(f"{name}.jsonl").write_text("".join(lines))


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """`run(command)` in the folder and in this process: exit code, standard output and error."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # cli.run sets it
    cli = importlib.import_module("jaxgpt.commands.cli")

    def hangs(*_):
        raise TimeoutError(f"no answer in {SECONDS} s")

    def run(command):
        script, *argv = shlex.split(command)
        monkeypatch.setattr(sys, "argv", [script, *argv])
        before = signal.signal(signal.SIGALRM, hangs)
        signal.alarm(SECONDS)
        code = 0
        try:
            module = importlib.import_module(f"jaxgpt.commands.{script.removesuffix('.py')}")
            cli.run(module.main, argv)
        except SystemExit as stop:
            code = stop.code
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        return code, *capsys.readouterr()

    return run


def contents(folder):
    """Everything in the folder, so that one can tell whether it has changed."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            status = os.lstat(path)
            # A lock is written and let go.
            written = (status.st_size, status.st_mtime_ns * (name != ".lock"))
            found[path] = status.st_mode, *(written if name in files else ())
    return found


@pytest.mark.parametrize(
    ("command", "code", "message"), COMMANDS, ids=[command[0][:80] for command in COMMANDS]
)
def test_bad_input_is_one_line_and_changes_nothing(run, folder, command, code, message):
    before = contents(folder)
    found, out, err = run(command)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert contents(folder) == before


def test_the_devices_are_still_there_after_asking_for_others(run):
    assert run("train.py tiny --out out --platform tpu")[0] == 2
    assert jax.device_count() == 8


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("assistant", "plan", "sweep", "train")]
)
def test_no_arguments_show_the_usage(run, name):
    code, out, err = run(f"{name}.py")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"usage: {python(SCRIPTS / f'{name}.py')} ")


@pytest.mark.parametrize(
    "command",
    [
        "train.py tiny --out out",
        "prepare_data.py --data text.txt --tokenizer bytes --out out",
        "train_tokenizer.py --data text.txt --out out",
    ],
)
def test_a_folder_that_may_not_be_written(run, folder, monkeypatch, command):
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and may(path, mode))
    before = contents(folder)
    code, _, err = run(command)
    assert (code, err.count("\n")) == (2, 1)
    assert "out" in err
    assert contents(folder) == before


def test_a_run_that_another_process_has(run, folder):
    with open(folder / "run/.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = run("train.py run.json --out run")
    assert (code, err.count("\n")) == (4, 1)
    assert f"run is in use by process {os.getpid()}" in err


def test_gpt2_without_its_vocabulary(run, monkeypatch):
    vocabulary = importlib.import_module("jaxgpt.tokenization.gpt2_vocabulary")
    monkeypatch.setattr(vocabulary, "_local_files", lambda: iter(()))

    def offline(url):
        raise OSError("no network")

    monkeypatch.setattr(vocabulary, "_download", offline)
    code, _, err = run("prepare_data.py --data text.txt --out out")
    assert (code, err.count("\n")) == (3, 1)
    assert python("-m", "pip", "install") in err


def test_a_finished_run_is_no_error_and_stays_as_it_is(run, folder):
    before = contents(folder)
    for flags in ("", "--resume must", "--learning-rate 1e-3 --allow-config-change"):
        code, _, err = run(f"train.py run.json --out run {flags}")
        assert (code, "error" in err) == (0, False)
        assert "run is already finished at step 2" in err
    assert contents(folder) == before


def test_data_that_has_changed_since_the_checkpoint(run, folder):
    text = (folder / "text.txt").read_text()
    (folder / "text.txt").write_text(text.replace("king", "queen"))
    before = contents(folder)
    try:
        code, _, err = run("train.py run.json --out run")
        assert (code, err.count("\n")) == (4, 1)
        assert "the data is not what run was trained on until step 2" in err
        assert contents(folder) == before
    finally:
        (folder / "text.txt").write_text(text)


def test_a_stop_string_with_a_backslash_is_hinted_at(run):
    with pytest.warns(UserWarning, match=r"stop string \\n has a backslash .* write \$'\\n' if"):
        code, *_ = run(r"generate.py --checkpoint run --prompt a --max-new-tokens 1 --stop '\n'")
    assert code == 0


def test_a_byte_order_mark_is_no_part_of_a_line(run, monkeypatch):
    classify = importlib.import_module("jaxgpt.commands.classify")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfa\r\n\nb")))
    with pytest.warns(UserWarning, match="standard input: the UTF-8 byte-order mark was left out"):
        assert classify.read_lines("-") == ["a", "b"]


def test_ids_beyond_the_tokenizer_are_padding(run):
    with pytest.warns(UserWarning, match="top_k is 999, but there are only 256 tokens"):
        code, out, _ = run("generate.py --checkpoint run --prompt a --top-k 999")
    assert (code, out[0]) == (0, "a")


def tokens_of(folder):
    from jaxgpt.data.tokens import TokenDataset
    from jaxgpt.tokenization.tokenizer import load_tokenizer

    splits = TokenDataset.open(folder).splits.values()
    tokens = [token for split in splits for token in split.read(0, len(split)).tolist()]
    return tokens, load_tokenizer(folder / "tokenizer")


def test_a_byte_order_mark_is_left_out_with_a_warning(run, tmp_path):
    with pytest.warns(UserWarning, match="byte-order mark was left out"):
        code, *_ = run(f"prepare_data.py --data bom.txt --tokenizer bytes --out {tmp_path / 'out'}")
    tokens, _ = tokens_of(tmp_path / "out")
    assert (code, bytes(tokens)) == (0, TEXT.encode())


@pytest.mark.parametrize(("name", "tokenizer"), [("crlf.txt", "bytes"), ("text.txt", "bpe:265")])
def test_text_is_kept_byte_by_byte_and_special_tokens_are_ordinary(
    run, folder, tmp_path, name, tokenizer
):
    out = tmp_path / "out"
    code, _, err = run(f"prepare_data.py --data {name} --tokenizer {tokenizer} --out {out}")
    tokens, tokenizer = tokens_of(out)
    assert (code, err) == (0, "")
    assert tokenizer.decode_bytes(tokens) == (folder / name).read_bytes()
    assert tokenizer.end_of_text not in tokens


def _execute(*arguments, **options):
    options |= {"capture_output": True, "text": True, "timeout": SECONDS, "check": False}
    return subprocess.run([sys.executable, *map(str, arguments)], **options)


def test_a_process_warns_and_fails_in_one_line_each(folder):
    flags = shlex.split("--data bom.txt none.txt --learning-rate 2 --out out")
    ran = _execute(SCRIPTS / "train.py", "tiny", *flags, cwd=folder)
    assert (ran.returncode, ran.stdout) == (3, "")
    warning, error = ran.stderr.splitlines()
    assert warning == "warning: learning_rate is 2.0; AdamW seldom learns above 0.01"
    assert error.startswith("error: none.txt: no such file or folder")
    assert not (folder / "out").exists()


def test_a_process_fails_in_one_line_on_a_narrow_terminal_too(folder):
    # A pseudo-terminal, for there tyro writes in boxes and colours.
    import pty

    controller, terminal = pty.openpty()
    command = [sys.executable, SCRIPTS / "train.py", "tiny", "--lerning-rate", "1"]
    environment = os.environ | {"COLUMNS": "40", "TERM": "xterm"}
    code = subprocess.call(
        command, cwd=folder, env=environment, stdout=terminal, stderr=terminal, timeout=SECONDS
    )
    os.close(terminal)
    shown = os.read(controller, 10_000).decode()
    os.close(controller)
    assert code == 2
    wanted = "--lerning-rate, 1; Perhaps you meant: --learning-rate, --final-learning-rate"
    assert shown == f"error: Unrecognized options: {wanted}\r\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_an_output_of_any_encoding_shows_what_it_can(folder, tmp_path, encoding):
    record = json.dumps({"instruction": "été 🙂", "output": "Ω"})
    (tmp_path / "é.jsonl").write_text(f"{record}\n")
    flags = ("duplicates", "--train", "é.jsonl", "--test", "é.jsonl")
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    command = [sys.executable, SCRIPTS / "evaluate.py", *flags]
    ran = subprocess.run(
        command, capture_output=True, env=environment, cwd=tmp_path, timeout=SECONDS, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    shown = "?.jsonl:1" if encoding == "ascii" else "é.jsonl:1"
    assert shown in ran.stdout.decode(encoding, "replace")


def test_debug_shows_where_it_failed(folder):
    ran = _execute(SCRIPTS / "train.py", "none.json", "--debug", cwd=folder)
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    assert "ConfigError: none.json cannot be read" in ran.stderr


def test_help_is_a_screen_and_it_and_the_package_do_without_jax():
    names = list(shell.COMMANDS.values())
    code = (
        "import contextlib, io, runpy, sys\n"
        f"for name in {names}:\n"
        "    for flag in ('--help', *['--help-all'] * (name in ('train', 'prepare_data'))):\n"
        "        sys.argv, page = [f'{name}.py', flag], io.StringIO()\n"
        "        try:\n"
        "            with contextlib.redirect_stdout(page):\n"
        "                runpy.run_path(f'{name}.py', run_name='__main__')\n"
        "        except SystemExit as stop:\n"
        "            assert not stop.code, name\n"
        "        lines = page.getvalue().splitlines()\n"
        "        assert max(map(len, lines)) <= 80, name\n"
        "        assert flag == '--help-all' or len(lines) <= 49, (name, len(lines))\n"
        "        print(page.getvalue())\n"
        "import jaxgpt\n"
        "print(sorted({'jax', 'flax', 'orbax', 'torch'} & sys.modules.keys()))\n"
    )
    paths = {"PYTHONPATH": f"{SCRIPTS}{os.pathsep}{SCRIPTS.parent}", "COLUMNS": "80"}
    ran = _execute("-c", code, cwd=SCRIPTS, env=os.environ | paths)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[-1] == "[]"
    assert f"usage: {shlex.quote(sys.executable)} ./train.py [PRESET]" in " ".join(
        ran.stdout.split()
    )
    assert "options options" not in ran.stdout
    for flag in ("--learning-rate", "--stories-bytes", "--vocab-size", "--top-p", "--stride"):
        assert flag in ran.stdout


HOSTILE = "\x1b[2J\u202e\u200b"


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("a.json", json.dumps({HOSTILE: 1}), "train.py a.json --out out"),
        ("a.json", json.dumps({"preset": HOSTILE}), "train.py a.json --out out"),
        ("a.toml", 'init_from = "\\u001b[2J"', "train.py a.toml --out out --data none"),
        ("a.jsonl", json.dumps({HOSTILE: "a"}), f"{CLASSIFIER} a.jsonl"),
        (f"a{HOSTILE}.csv", "a", f"{INSTRUCTIONS} 'a{HOSTILE}.csv'"),
        ("a.txt", "a", f"train.py tiny --data a.txt '--{HOSTILE}'"),
        ("a.txt", "a", f"evaluate.py '{HOSTILE}' --data a.txt"),
    ],
)
def test_no_text_of_a_file_or_an_argument_steers_the_terminal(run, folder, name, text, command):
    (folder / name).write_text(text)
    try:
        code, out, err = run(command)
    finally:
        (folder / name).unlink()
    assert (code in (2, 3, 4), out, err.count("\n")) == (True, "", 1)
    assert not set(HOSTILE[0] + HOSTILE[-2:]) & set(err)
    assert "\\x1b[2J" in err or "none" in err


def test_help_shows_the_defaults_of_a_config_file_escaped(run, folder):
    (folder / "a.json").write_text(json.dumps({"sample_prompt": HOSTILE}))
    code, out, _ = run("train.py a.json --help-all")
    (folder / "a.json").unlink()
    assert code == 0
    assert "\\x1b[2J" in out
    assert "\u202e" not in out
