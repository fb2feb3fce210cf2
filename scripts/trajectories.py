"""Compare the losses of one training in jaxgpt and in PyTorch: `jaxgpt trajectories`."""

import startup

if __name__ == "__main__":
    startup.run("trajectories")
