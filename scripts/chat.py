"""Chat with a fine-tuned model: `jaxgpt chat`."""

import startup

if __name__ == "__main__":
    startup.run("chat")
