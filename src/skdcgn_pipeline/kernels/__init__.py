"""Fast stand-ins for torch's operations."""
