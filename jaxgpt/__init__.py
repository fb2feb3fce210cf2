"""jaxgpt: a GPT from the ground up in JAX, equal to PyTorch number by number.

Read it in the order in which data passes through it; each name is documented where it stands.

    jaxgpt.config        every choice of pretraining: ModelConfig, DataConfig, TrainConfig
    jaxgpt.run_config    what every run is decided by: OptimizerConfig, RunOptions
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

    jaxgpt.training      logits -> loss -> update -> checkpoint
      loss                 cross_entropy; head_loss: the same with few logits in memory at once
      optimizer            learning_rate, make_optimizer
      step                 TrainState, init_state, train_step, eval_step: pure
      loop                 fit: a run's loop, with Hooks; report: Reporter, what is seen of it
      pretrain             pretrain: a whole run in a folder, also with a loss of your own
      sweep                sweep: many seeds and learning rates of a small model
      evaluation           evaluate_documents
      plan, profile        make_plan: what a run will need; profiling: where its time goes
      checkpoint           save, restore_latest, load_model

    jaxgpt.huggingface   folders of Hugging Face
      weights              load_gpt2, save_gpt2

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

    jaxgpt.parity        the same model in PyTorch, which most of this does without
      torch_random         TorchGenerator, init_like_torch: PyTorch's random numbers
      compare              compare: where two models part, and why

    jaxgpt.benchmark     beside PyTorch by turns on one machine
    jaxgpt.worked        examples that notebooks print, computed again

In array shapes, B is batch, T time (tokens in), S time (tokens attended to), D model width,
H heads, K head width, F hidden width, V vocabulary, L layers, C classes.
"""

import sys
from importlib import import_module
from types import FrameType
from typing import Any

_HOME = {
    "config": "ModelConfig DataConfig TrainConfig",
    "run_config": "OptimizerConfig RunOptions",
    "presets": "PRESETS get_preset",
    "compute": "Compute",
    "tokenization.tokenizer": "Tokenizer load_tokenizer",
    "tokenization.words": "WordTokenizer",
    "tokenization.bpe": "train_bpe",
    "data.sources": "Document read_documents",
    "data.stories": "write_stories story_entropy",
    "data.tokens": "TokenDataset",
    "data.prepare": "prepare",
    "data.batches": "Batch SlidingWindows",
    "model.layers": "linear layer_norm dropout gelu init_linear init_layer_norm",
    "model.embedding": "embed sinusoidal_positions unembed",
    "model.attention": "simplified_attention self_attention causal_attention "
    "multi_head_attention_by_heads multi_head_attention cached_attention "
    "attention_weights attend_causally causal_mask split_heads join_heads",
    "model.cache": "update_cache",
    "model.attention_kernels": "choose_attention",
    "model.feedforward": "feed_forward",
    "model.transformer": "block attend stack Block with_block",
    "model.schema": "Leaf BLOCK_LEAVES",
    "model.parameters": "init_params init_block parameter_shapes count_parameters",
    "model.gpt": "GPT",
    "model.activations": "activations intervene keep_heads recorded_names",
    "training.loss": "cross_entropy head_loss next_token_loss",
    "training.optimizer": "learning_rate make_optimizer",
    "training.step": "TrainState init_state train_step eval_step",
    "training.loop": "fit Hooks",
    "training.report": "Reporter",
    "training.pretrain": "pretrain",
    "training.sweep": "sweep Sweep",
    "training.lanes": "Lane",
    "training.evaluation": "evaluate_documents",
    "training.plan": "make_plan",
    "training.checkpoint": "LoadedModel load_model",
    "generation.settings": "SamplingConfig",
    "generation.sampling": "sample",
    "generation.decoding": "generate",
    "generation.text": "generate_text",
    "finetuning.templates": "TEMPLATES Turn",
    "finetuning.classification": "classify class_loss",
    "finetuning.preferences": "preference_loss",
    "finetuning.lora": "init_adapters merge",
    "finetuning.vocabulary": "grow_vocabulary",
    "finetuning.tune_classifier": "tune_classifier classify_texts",
    "finetuning.tune_instructions": "tune_instructions",
    "finetuning.tune_preferences": "tune_preferences",
    "assistant.answers": "write_answers exact_match",
    "assistant.chat": "Chat",
    "huggingface.weights": "load_gpt2 save_gpt2",
    "finetuning.pretrained": "load_pretrained",
    "parity.torch_random": "TorchGenerator init_like_torch",
    "parity.compare": "compare",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

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
