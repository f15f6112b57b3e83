"""`minordpo lens`: a picture of where the loss of each objective pushes a pair, and maybe of a run's pairs over it.

lens       the command: names and hyper-parameters → objectives, each with its plane → one picture; read it first
gradients  an objective → its plane, and the push −d loss / d log π at places of it
run_pairs  a run's responses.jsonl → its pairs, in the coordinates of a plane
planes     a plane drawn: colours, arrows, what its places mean, a run's pairs
drawing    the whole picture: planes, the curves below them, words
"""
