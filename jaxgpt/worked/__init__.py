"""Worked examples that public notebooks print, computed again: text, attention, GPT, training.

The expected values are facts in `facts.json`, each with its source. Those of tier T1 begin with
`torch.manual_seed`; `jaxgpt.parity.torch_random` makes their numbers.
"""
