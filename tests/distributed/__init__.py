"""What `test_distributed.py` starts with torchrun, and the rows that it is given."""
