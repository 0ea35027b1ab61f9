"""Benchmarks: each figure of Voltwire beside a baseline, in one run on one machine, as a ratio.

`./scripts/bench [live|delivery|reads|readings|writes] [--against REVISION] [--quick] [--peers DIR] [--json FILE]`.
Figures of different machines do not compare; the ratios do.
"""
