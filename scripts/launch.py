"""Run a training as several processes of this machine: `jaxgpt launch`."""

import startup

if __name__ == "__main__":
    startup.run("launch")
