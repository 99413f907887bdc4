"""One room per command: each turns words into values and calls the stage of its name.

Heavy imports happen inside the command bodies, so that every ``--help`` answers at once.
"""
