"""Teach a pretrained model to answer: `jaxgpt finetune instructions`."""

import startup

if __name__ == "__main__":
    startup.run("finetune instructions")
