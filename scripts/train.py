"""Train a GPT: `jaxgpt train`."""

import startup

if __name__ == "__main__":
    startup.run("train")
