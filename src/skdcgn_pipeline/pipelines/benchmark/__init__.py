"""Measure what teacher, students and data paths cost."""
