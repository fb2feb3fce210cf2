"""jaxgpt: a GPT from the ground up in JAX, equal to PyTorch number by number.

Read it in the order in which data passes through it; each name is documented where it stands.

    jaxgpt.config        every choice of pretraining: ModelConfig, DataConfig, TrainConfig
    jaxgpt.run_config    what every run is decided by: OptimizerConfig, RunOptions
    jaxgpt.families      today's models as data: Llama, Mistral, Qwen, Gemma, OLMo, GPT-2
    jaxgpt.presets       named runs: get_preset
    jaxgpt.compute       Compute: dtype, attention, remat and unroll of a forward pass

    jaxgpt.tokenization  text -> tokens
      tokenizer            load_tokenizer: GPT-2's BPE and other encodings, bytes, trained ones
      words                WordTokenizer: the word-level tokenizer to learn from
      bpe                  train_bpe: learn a byte-pair vocabulary

    jaxgpt.data          texts -> batches of tokens
      sources              read_documents: files and folders, in pieces
      stories              write_stories: the bundled corpus, whose entropy is known
      tokens, prepare      TokenDataset on disk; prepare makes one
      batches              SlidingWindows: the batch as a function of (seed, step)
      mixed_windows        MixedWindows: the same of several sources in shares

    jaxgpt.model         tokens -> logits
      layers               linear, layer_norm, dropout, gelu; init_linear, init_layer_norm
      embedding            embed, sinusoidal_positions, unembed
      attention            simplified_attention -> self_attention -> causal_attention ->
                           multi_head_attention; cached_attention;
                           attention_weights, attend_causally: what all of them compute by
      cache                update_cache: keys and values of earlier tokens
      attention_kernels    choose_attention: the kernels of GPUs and TPUs
      feedforward          feed_forward
      transformer          block, attend, stack; Block, with_block: another in its place
      schema               the parameters, one row for each Leaf
      parameters           init_params, init_block, count_parameters
      gpt                  GPT
      activations          activations, intervene: what is computed on the way, by name;
                           keep_heads: knock the others out

    jaxgpt.hosts         several processes, on one machine or many
      join                 join_processes, with HostOptions

    jaxgpt.training      logits -> loss -> update -> checkpoint
      loss                 cross_entropy; head_loss: the same with few logits in memory at once
      optimizer            learning_rate, make_optimizer
      step                 TrainState, init_state, train_step, eval_step: pure
      loop                 fit: a run's loop, with Hooks; report: Reporter, what is seen of it
      pretrain             pretrain: a whole run in a folder, also with a loss of your own
      replay               replay: a step taken again, and where it is not finite
      sweep                sweep: many seeds and learning rates of a small model
      evaluation           evaluate_documents
      plan, profile        make_plan: what a run will need; profiling: where its time goes
      checkpoint           save, restore_latest, load_model

    jaxgpt.huggingface   folders of Hugging Face
      weights              load_huggingface, save_huggingface: also load_gpt2, save_gpt2

    jaxgpt.generation    checkpoint -> text
      sampling             SamplingConfig, sample
      decoding             generate, stream: cached, ragged, sliding
      text                 generate_text

    jaxgpt.finetuning    a pretrained model -> a classifier, an assistant
      instructions         conversations -> batches; packing: several in a row
      classification       classify, class_loss; measures: accuracy, calibration
      preferences          preference_loss: DPO
      pretrained           load_pretrained: of Hugging Face, or what was trained here
      lora, freezing       init_adapters, merge; frozen_loss: what is trained
      vocabulary           grow_vocabulary: new special tokens
      tuning               tune_classifier, tune_instructions, tune_preferences: whole runs

    jaxgpt.assistant     a fine-tuned model -> answers, how good they are, and a chat
      answers              write_answers, exact_match; choices: by log-likelihood
      judge, win_rate      which of two answers a judge behind a URL finds better
      near_duplicates      most_similar: what of a test is nearly in training
      chat                 Chat: a session
      story_assistant      make_assistant: all of it from nothing

    jaxgpt.serving       a model -> answers for many callers at once: Engine, Request, Chunk

    jaxgpt.parity        the same model in PyTorch, which most of this does without
      torch_random         TorchGenerator, init_like_torch: PyTorch's random numbers
      compare              compare: where two models part, and why

    jaxgpt.benchmark     beside PyTorch by turns on one machine
    jaxgpt.worked        examples that notebooks print, computed again

In array shapes, B is batch, T time (tokens in), S time (tokens attended to), D model width,
H heads, K head width, F hidden width, V vocabulary, L layers, C classes.
"""

import re
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

# Where each public name stands is written once, in the stub that editors and type checkers read.
_STUB = Path(__file__).with_name("__init__.pyi").read_text("utf-8")
_MODULE = {
    name: module
    for module, names in re.findall(r"^from jaxgpt\.(\S+) import (\([^)]*\)|.*)", _STUB, re.M)
    for name in re.findall(r"(\w+) as \1\b", names)
}

__version__ = "0.1.0"
__all__ = list(_MODULE)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    # On first use, so that `import jaxgpt` does not wait for JAX.
    if name not in _MODULE:
        raise AttributeError(f"module jaxgpt has no attribute {name}")
    return getattr(import_module(f"jaxgpt.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    # To Tab all names; but not to pydoc, which would show 2,000 lines of inherited methods behind
    # the table above.
    frame: FrameType | None = sys._getframe()
    while frame and frame.f_globals.get("__name__") != "pydoc":
        frame = frame.f_back
    return [*globals(), *([] if frame else __all__)]
