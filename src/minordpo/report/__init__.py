"""`minordpo report`: run folders → one HTML page and its figures. Read `page` first.

find      DIR … ─► run folders and evaluations, each run with a label of its own
pair_tokens       (--pairs) ─► pair_tokens.jsonl in each run folder, from its model and reference
gather    their files ─► one dict of plain values: settings, curves, health, scores, answers, pairs
page      the dict ─► index.html (page.html, page.css, *.js of this package around it)
figures   the dict ─► figures/*.png and *.svg
Files are only read, except pair_tokens.jsonl; the page needs no network and no library.
"""
