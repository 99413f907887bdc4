"""How fast, under which conditions. No torch."""
