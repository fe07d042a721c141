"""The folder of a run: its files, its log while it goes on, and the one reader of it."""
