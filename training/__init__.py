"""What every training shares: checkpoints, EMA, the log, memory, and a generator's folder."""
