"""Measures of results. Each says what it compares and how."""
