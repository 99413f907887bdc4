"""One signed file that carries a network to its target, with the proof of its masks.  No torch."""
