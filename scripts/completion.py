"""Complete commands and their flags in a shell: `jaxgpt completion`."""

import startup

if __name__ == "__main__":
    startup.run("completion")
