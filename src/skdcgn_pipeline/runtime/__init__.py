"""What every room runs on: errors, seeding, device and precision, progress, threads."""
