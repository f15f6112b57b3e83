"""Whether a rejected answer helps that is the model's own mistake: loops on toy worlds, arm by arm.

study     the study's YAML, and its loops: seeds × arms × rates
run       `minordpo paper loops`: the loops of a phase, several at a time
one       one loop in a process of its own, on what the loops of a seed share
rloo      Eq. 1 of the MinorDPO paper by TRL's RLOOTrainer, as one of the arms
tables    finished loops → rows, contrasts, figures
"""
