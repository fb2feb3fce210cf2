"""Hold worked examples of public notebooks against what those print: `jaxgpt verify`."""

import startup

if __name__ == "__main__":
    startup.run("verify")
