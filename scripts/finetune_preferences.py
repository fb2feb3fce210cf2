"""Make a model answer as preferred: `jaxgpt finetune preferences`."""

import startup

if __name__ == "__main__":
    startup.run("finetune preferences")
