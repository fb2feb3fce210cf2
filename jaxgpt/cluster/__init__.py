"""A run on devices that are not here: its meshes, what they hold and send, and its time."""
