"""The defense's settings by name."""
