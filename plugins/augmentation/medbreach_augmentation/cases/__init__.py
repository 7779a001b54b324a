"""The defenses' settings by name."""
