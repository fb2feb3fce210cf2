"""Find the layer at which two GPTs first differ, and why: `jaxgpt compare`."""

import startup

if __name__ == "__main__":
    startup.run("compare")
