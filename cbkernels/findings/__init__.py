"""What was measured, as data: the report of one measurement, the history of many, their tables."""
