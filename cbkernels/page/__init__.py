"""The page that reports a run, made from its record only."""
