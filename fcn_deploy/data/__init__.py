"""Pictures and masks: read, write, check, count. No torch."""
