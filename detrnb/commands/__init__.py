"""What `detrnb` runs from a terminal: one file a command. Heavy rooms are imported as it runs."""

from detrnb.commands.terminal import main

__all__ = ["main"]
