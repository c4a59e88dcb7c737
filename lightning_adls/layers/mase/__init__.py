"""The backends "mase", which computes as MASE does, and "chop", MASE itself.

They are layers as the others are, below the recipes that ask for them. What reads and writes
MASE's configs of whole models is above those: :mod:`lightning_adls.mase`.
"""
