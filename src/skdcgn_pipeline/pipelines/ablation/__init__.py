"""Study the composition."""
