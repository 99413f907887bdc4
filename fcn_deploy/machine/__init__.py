"""What this computer is and what it does just now."""
