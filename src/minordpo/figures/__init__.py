"""Figures as files. Read `canvas` first: other rooms (evaluate, lens, report) draw with it.

canvas           one style, the colours, legends and panels that figures share, and writing a figure whole or not at all
training_curves  metrics.jsonl ─► curves by step, smoothed; the figure of a run (`reward_figure`)
"""
