"""Train a small model by many seeds and learning rates: `jaxgpt sweep`."""

import startup

if __name__ == "__main__":
    startup.run("sweep")
