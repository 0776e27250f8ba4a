"""Quality tasks: one file each, imported from there. A quality is the same number on every machine.

Their data ships with the package or is made from a seed, and each task also knows the score of the best answer that
ignores the input: a bare percentage says nothing.
"""
