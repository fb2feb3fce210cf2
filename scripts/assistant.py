"""Make an assistant from nothing: `jaxgpt assistant`."""

import startup

if __name__ == "__main__":
    startup.run("assistant")
