"""Make a classifier of a pretrained model: `jaxgpt finetune classifier`."""

import startup

if __name__ == "__main__":
    startup.run("finetune classifier")
