"""What people look at: picture sheets, charts, and the report."""
