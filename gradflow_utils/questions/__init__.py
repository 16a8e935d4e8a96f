"""The questions of the exercise sets, one module for each: what is asked of an answer, and known mistakes.

An expected value is computed by another way than the one that the question asks for (autograd, finite differences,
counting, simulation), so the formula that a student shall find is not here.
"""
