"""Rounds of sample → pairs → train → evaluate: `minordpo loop`.

config   what a loop's YAML says
rounds   one round: its prompts, its pairs, its run config
loop     the rounds one after the other, and why they end. Read this first
table    what each round cost and gave: loop.csv, loop.json, loop.png
cost     what a loop will take, before it starts
"""
