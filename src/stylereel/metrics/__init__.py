"""Measures of results. Each says what it compares and how; `registry` finds them by name."""
