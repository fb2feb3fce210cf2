"""List, verify, compare, prune and export a run's checkpoints: `jaxgpt checkpoints`."""

import startup

if __name__ == "__main__":
    startup.run("checkpoints")
