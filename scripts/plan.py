"""Tell what a run takes before it begins: `jaxgpt plan`."""

import startup

if __name__ == "__main__":
    startup.run("plan")
