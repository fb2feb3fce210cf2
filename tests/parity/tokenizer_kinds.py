"""Small tokenizers of the kinds that today's families have, in folders as transformers reads."""

import json
from functools import cache
from types import SimpleNamespace

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, trainers
from tokenizers import pre_tokenizers as pre
from tokenizers import processors as post

TEXTS = [
    "The king's 12 ships sailed at dawn; the queen's did not. I've said: don't go.\n\n"
    "ÀÉ ßtraße Привет, мир! नमस्ते 世界 🙂\n  x = f(y)[0] + 3.14  # user system assistant model\n" * 9
]
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _trained(backend, size, special=(), **options):
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), show_progress=False, **options
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def _byte_level(added, plain=(), normalizer=None):
    """As Llama 3, Qwen, OLMo and gpt-oss have it: a pattern, letters for bytes, tokens behind."""
    backend = Tokenizer(models.BPE(ignore_merges=True))
    backend.normalizer = normalizer
    split = pre.Split(Regex(_WORDS), "isolated")
    backend.pre_tokenizer = pre.Sequence(
        [split, pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    _trained(backend, 600, initial_alphabet=sorted(pre.ByteLevel.alphabet()))
    backend.add_special_tokens([AddedToken(name, special=True) for name in added])
    backend.add_tokens([AddedToken(name, normalized=False) for name in plain])
    return backend


def _characters(special, normalizer, before, decoder):
    """As Gemma and Mistral have it: characters, bytes for the others, tokens in front."""
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizer
    if before is not None:
        backend.pre_tokenizer = before
    spelt = [f"<0x{byte:02X}>" for byte in range(256)]
    _trained(backend, 800, [*special, *spelt], limit_alphabet=60)
    values = json.loads(backend.to_str())
    values["added_tokens"] = values["added_tokens"][: len(special)]
    backend = Tokenizer.from_str(json.dumps(values))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), *decoder]
    )
    return backend


def _begun(backend, token, level=False):
    """The backend with a post-processor that puts `token` before a text."""
    first = post.TemplateProcessing(
        single=f"{token} $A",
        pair=f"{token} $A {token} $B",
        special_tokens=[(token, backend.token_to_id(token))],
    )
    backend.post_processor = post.Sequence([post.ByteLevel(), first]) if level else first
    return backend


def _llama():
    names = ["begin_of_text", "end_of_text", "reserved_special_token_0", "eot_id"]
    names += ["start_header_id", "end_header_id", "eom_id"]
    backend = _byte_level([f"<|{name}|>" for name in names])
    return _begun(backend, "<|begin_of_text|>", level=True)


def _gemma():
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    before = pre.Split(" ", "merged_with_previous")
    backend = _characters(special, normalizers.Replace(" ", "▁"), before, [decoders.Fuse()])
    backend.add_tokens([AddedToken(name, normalized=False) for name in ("\n\n", "▁▁", "<b>")])
    return _begun(backend, "<bos>")


def _mistral():
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    start = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return _begun(_characters(special, start, None, strip), "<s>")


def _metaspace():
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    before = pre.Metaspace("▁", prepend_scheme="first", split=False)
    strip = [decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return _begun(_characters(special, None, before, strip), "<s>")


def _qwen():
    plain = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return _byte_level(names, plain, normalizers.NFC())


def _olmo():
    return _byte_level(["<|endoftext|>", "<|pad|>", "|||IP|||"])


def _harmony():
    names = ["startoftext", "endoftext", "return", "constrain", "channel", "start", "end"]
    return _byte_level([f"<|{name}|>" for name in [*names, "message", "call"]])


def _kind(make, bos, eos, ends, **config):
    named = {"bos_token": bos, "eos_token": eos}
    return SimpleNamespace(
        backend=cache(make),
        ends=ends,
        config={name: token for name, token in named.items() if token} | config,
    )


KINDS = {
    "llama": _kind(_llama, "<|begin_of_text|>", "<|eot_id|>", ["<|end_of_text|>", "<|eot_id|>"]),
    "qwen": _kind(_qwen, None, "<|im_end|>", ["<|im_end|>", "<|endoftext|>"], add_bos_token=False),
    "gemma": _kind(_gemma, "<bos>", "<eos>", ["<eos>", "<end_of_turn>"], add_bos_token=True),
    "olmo": _kind(_olmo, "<|endoftext|>", "<|endoftext|>", ["<|endoftext|>"]),
    "harmony": _kind(_harmony, "<|startoftext|>", "<|return|>", ["<|return|>", "<|call|>"]),
    "mistral": _kind(_mistral, "<s>", "</s>", ["</s>"], add_bos_token=True),
    "metaspace": _kind(_metaspace, "<s>", "</s>", ["</s>"]),
}


def write(folder, kind, chat_template=None, **changes):
    """A folder with the tokenizer of a kind and the ids of the model, but no weights."""
    made = KINDS[kind]
    backend = made.backend()
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "tokenizer.json").write_text(backend.to_str(pretty=True))
    config = {"tokenizer_class": "PreTrainedTokenizerFast"} | made.config | changes
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ends = [backend.token_to_id(name) for name in made.ends]
    model = {"model_type": "llama", "vocab_size": backend.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps(model | {"eos_token_id": ends[0]}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return folder
