"""Teachers from disk."""
