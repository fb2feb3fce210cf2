"""Train a byte-pair vocabulary on text and save it as a tokenizer folder: `jaxgpt tokenizer`."""

import startup

if __name__ == "__main__":
    startup.run("tokenizer")
