# pyright: strict
"""A user's program, of which an editor must know every type."""

from typing import assert_type

import jax
from jax import Array

import jaxgpt
from jaxgpt import GPT, ModelConfig, SamplingConfig, activations, cross_entropy, generate

config = ModelConfig(vocab_size=11, context_length=8, num_layers=2, num_heads=2, embed_dim=8)
params = jaxgpt.init_params(config, jax.random.key(0))
tokens = jax.random.randint(jax.random.key(1), (1, 5), 0, 11)
model = GPT(config, params)
logits = model(tokens[:, :-1])
assert_type(logits, Array)
nats, count = cross_entropy(logits, tokens[:, 1:])
assert_type(nats, Array)
loss = float(nats) / int(count)
weights = activations(model, tokens, "blocks.*.attn.weights")
assert_type(weights, dict[str, Array])
tokenizer = jaxgpt.load_tokenizer("bytes")
assert_type(tokenizer, jaxgpt.Tokenizer)
sampling = SamplingConfig(temperature=0.0)
text = generate(config, params, [[1, 2]], max_new_tokens=4, sampling=sampling)[0]
assert_type(text, list[int])
train = jaxgpt.get_preset("tiny")
assert_type(train, jaxgpt.TrainConfig)
optimizer = jaxgpt.make_optimizer(train.optimizer, train.steps)
state = jaxgpt.init_state(params, optimizer)
assert_type(state, jaxgpt.TrainState)
