"""Prompts and a verifier → a model's own answers, scored and paired, to be trained on.

prompts   a file of prompts, and right answers where there are some
answers   what the models answered, and each answer's score: one file, written as they come
pairing   scored answers → pairs, ranked or labelled responses
sampling  all of it: `minordpo data sample`
summary   what came of it: pass rates, contrast, lengths, likeness
"""
