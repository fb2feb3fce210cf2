"""Continue a text with a trained model: `jaxgpt generate`."""

import startup

if __name__ == "__main__":
    startup.run("generate")
