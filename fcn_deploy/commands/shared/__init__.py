"""Options, console output and input choices that several commands share."""
