"""Tell the class of a text, or of every line of a file: `jaxgpt classify`."""

import startup

if __name__ == "__main__":
    startup.run("classify")
