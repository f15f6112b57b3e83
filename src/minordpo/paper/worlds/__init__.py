"""The micro world: arithmetic in characters, small enough that a base model is trained from nothing in minutes.

questions.py   questions with a terse, a worked and a wrong answer, and tasks beside them
base.py        a tokenizer and a Llama of under a million weights, trained on the questions
world.py       all of it in a folder, from a seed: what the studies start from
foundation.py  the world as what runs of a sweep stand on
"""
