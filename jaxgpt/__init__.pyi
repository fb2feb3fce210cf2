"""Types of the public names, for editors and type checkers; `__init__.py` loads them lazily."""

from jaxgpt.config import (
    ModelConfig as ModelConfig,
    DataConfig as DataConfig,
    TrainConfig as TrainConfig,
)
from jaxgpt.run_config import OptimizerConfig as OptimizerConfig, RunOptions as RunOptions
from jaxgpt.presets import PRESETS as PRESETS, get_preset as get_preset
from jaxgpt.compute import Compute as Compute
from jaxgpt.tokenization.tokenizer import Tokenizer as Tokenizer, load_tokenizer as load_tokenizer
from jaxgpt.tokenization.words import WordTokenizer as WordTokenizer
from jaxgpt.tokenization.bpe import train_bpe as train_bpe
from jaxgpt.data.sources import Document as Document, read_documents as read_documents
from jaxgpt.data.stories import write_stories as write_stories, story_entropy as story_entropy
from jaxgpt.data.tokens import TokenDataset as TokenDataset
from jaxgpt.data.prepare import prepare as prepare
from jaxgpt.data.batches import Batch as Batch, SlidingWindows as SlidingWindows
from jaxgpt.data.mixed_windows import MixedWindows as MixedWindows
from jaxgpt.model.layers import (
    linear as linear,
    layer_norm as layer_norm,
    dropout as dropout,
    gelu as gelu,
    init_linear as init_linear,
    init_layer_norm as init_layer_norm,
)
from jaxgpt.model.embedding import (
    embed as embed,
    sinusoidal_positions as sinusoidal_positions,
    unembed as unembed,
)
from jaxgpt.model.attention import (
    simplified_attention as simplified_attention,
    self_attention as self_attention,
    causal_attention as causal_attention,
    multi_head_attention_by_heads as multi_head_attention_by_heads,
    multi_head_attention as multi_head_attention,
    cached_attention as cached_attention,
    attention_weights as attention_weights,
    attend_causally as attend_causally,
    causal_mask as causal_mask,
    split_heads as split_heads,
    join_heads as join_heads,
)
from jaxgpt.model.cache import update_cache as update_cache
from jaxgpt.model.attention_kernels import choose_attention as choose_attention
from jaxgpt.model.feedforward import feed_forward as feed_forward
from jaxgpt.model.transformer import (
    block as block,
    attend as attend,
    stack as stack,
    Block as Block,
    with_block as with_block,
)
from jaxgpt.model.schema import Leaf as Leaf, BLOCK_LEAVES as BLOCK_LEAVES
from jaxgpt.model.parameters import (
    init_params as init_params,
    init_block as init_block,
    parameter_shapes as parameter_shapes,
    count_parameters as count_parameters,
)
from jaxgpt.model.gpt import GPT as GPT
from jaxgpt.model.activations import (
    activations as activations,
    intervene as intervene,
    keep_heads as keep_heads,
    recorded_names as recorded_names,
)
from jaxgpt.hosts.options import HostOptions as HostOptions
from jaxgpt.hosts.join import join_processes as join_processes
from jaxgpt.training.loss import (
    cross_entropy as cross_entropy,
    head_loss as head_loss,
    next_token_loss as next_token_loss,
)
from jaxgpt.training.optimizer import (
    learning_rate as learning_rate,
    make_optimizer as make_optimizer,
)
from jaxgpt.training.step import (
    TrainState as TrainState,
    init_state as init_state,
    train_step as train_step,
    eval_step as eval_step,
)
from jaxgpt.training.loop import fit as fit, Hooks as Hooks
from jaxgpt.training.report import Reporter as Reporter
from jaxgpt.training.pretrain import pretrain as pretrain
from jaxgpt.training.replay import Replay as Replay, replay as replay
from jaxgpt.training.sweep import sweep as sweep, Sweep as Sweep
from jaxgpt.training.lanes import Lane as Lane
from jaxgpt.training.evaluation import evaluate_documents as evaluate_documents
from jaxgpt.training.plan import make_plan as make_plan
from jaxgpt.training.checkpoint import LoadedModel as LoadedModel, load_model as load_model
from jaxgpt.generation.settings import SamplingConfig as SamplingConfig
from jaxgpt.generation.sampling import sample as sample
from jaxgpt.generation.decoding import generate as generate
from jaxgpt.generation.text import generate_text as generate_text
from jaxgpt.finetuning.templates import TEMPLATES as TEMPLATES, Turn as Turn
from jaxgpt.finetuning.classification import classify as classify, class_loss as class_loss
from jaxgpt.finetuning.preferences import preference_loss as preference_loss
from jaxgpt.finetuning.lora import init_adapters as init_adapters, merge as merge
from jaxgpt.finetuning.vocabulary import grow_vocabulary as grow_vocabulary
from jaxgpt.finetuning.tune_classifier import (
    tune_classifier as tune_classifier,
    classify_texts as classify_texts,
)
from jaxgpt.finetuning.tune_instructions import tune_instructions as tune_instructions
from jaxgpt.finetuning.tune_preferences import tune_preferences as tune_preferences
from jaxgpt.assistant.answers import write_answers as write_answers, exact_match as exact_match
from jaxgpt.assistant.chat import Chat as Chat
from jaxgpt.serving.engine_types import (
    Request as Request,
    Chunk as Chunk,
    Token as Token,
    Ticket as Ticket,
    EngineStats as EngineStats,
    Busy as Busy,
    Closing as Closing,
)
from jaxgpt.serving.engine import Engine as Engine
from jaxgpt.huggingface.weights import (
    load_gpt2 as load_gpt2,
    load_huggingface as load_huggingface,
    save_gpt2 as save_gpt2,
    save_huggingface as save_huggingface,
)
from jaxgpt.finetuning.pretrained import load_pretrained as load_pretrained
from jaxgpt.parity.torch_random import (
    TorchGenerator as TorchGenerator,
    init_like_torch as init_like_torch,
)
from jaxgpt.parity.compare import compare as compare

__version__: str
__all__: list[str]
