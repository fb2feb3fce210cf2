"""Tokenize text into a dataset of train and validation tokens: `jaxgpt prepare`."""

import startup

if __name__ == "__main__":
    startup.run("prepare")
