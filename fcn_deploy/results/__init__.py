"""The words in which measured things are written and read: one class per thing."""
