"""Time jaxgpt beside PyTorch on this machine: `jaxgpt benchmark`."""

import startup

if __name__ == "__main__":
    startup.run("benchmark")
