"""`minordpo report`: run folders → one HTML page and its figures. Read `page` first, then `gather`.

page         the command: find, gather, draw, write. The dict ─► index.html (page.html, page.css, *.js around it)
find         DIR … ─► `Found`: run folders, each with a label of its own, and evaluations
gather       their files ─► one dict of plain values, which page and figures are drawn from; from
             groups        runs that differ by their seed alone ─► one group, with a label and a colour
             curves        metrics.jsonl ─► log-ratios, coefficients, probes and health by step
             evaluations   folders of `minordpo evaluate` ─► scores, and whose they are
             answers       samples.jsonl, probes.jsonl and evaluations ─► answers to the same question side by side
             pairs         pair_tokens.jsonl ─► the same pairs with their tokens under each run
pair_tokens  (--pairs) writes pair_tokens.jsonl into each run folder, from its model and its reference
figures      the dict ─► figures/*.png and *.svg

Files are only read, except pair_tokens.jsonl; the page needs no network and no library.
"""
