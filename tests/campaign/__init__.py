"""A campaign of wrong input, run by hand: `python -m campaign.run` from `tests`, see `run`."""
