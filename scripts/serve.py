"""Serve a model by OpenAI's interface: `jaxgpt serve`."""

import startup

if __name__ == "__main__":
    startup.run("serve")
