"""Finished work on disk."""
