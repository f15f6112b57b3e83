"""The micro world: arithmetic in characters, small enough that a base model is trained from nothing in minutes.

questions.py  questions with a terse and a worked answer, and tasks beside them
pairs.py      worked answer and a wrong one, near or far
base.py       a tokenizer and a Llama of under a million weights, trained on the questions
world.py      all of it in a folder, from a seed: what the studies start from
"""
