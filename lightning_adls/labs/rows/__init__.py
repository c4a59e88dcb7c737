"""The rows of ``results.csv``: one column for each thing, in the same words in every lab."""
