"""File formats, checks and flags; nothing here knows a model."""
