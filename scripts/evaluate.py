"""Measure a model: `jaxgpt evaluate`."""

import startup

if __name__ == "__main__":
    startup.run("evaluate")
