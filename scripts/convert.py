"""Turn a GPT-2 of Hugging Face into a checkpoint of jaxgpt, or back: `jaxgpt convert`."""

import startup

if __name__ == "__main__":
    startup.run("convert")
