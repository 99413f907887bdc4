"""The machine: its description, its sensors and its GPU."""
