"""Published encoder architectures."""
