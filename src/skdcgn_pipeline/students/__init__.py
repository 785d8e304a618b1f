"""Students: networks, distillation, the baseline without it."""
