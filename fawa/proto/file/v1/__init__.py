"""Generated from protocols/ by scripts/generate; never edited."""
