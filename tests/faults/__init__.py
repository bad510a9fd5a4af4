"""THE FAULT CAMPAIGN: runs of train.py that are killed, starved and damaged must end as if nothing had happened."""
