"""The benchmark kit: how a running node answers, by a protocol that can be repeated, beside the design it replaces.

The protocol is that of the thesis that described a brain-tumour segmentation service: 3 warm-up requests, 30 measured
ones, seed 42, then 1, 2, 4 and 8 users at once; mean with standard deviation and 95 % interval, percentiles, the
Mann-Whitney U test between two arms.  `rival` is that thesis's design made again (one lock, first come first served,
one resident model, mirroring on), so that both are measured in one run on one machine with the same weights.

One verb: `run`.
"""

from dicom_node.benchmark.load import Answer, Arm, Level, run
from dicom_node.benchmark.statistics import Comparison, Summary, compare, summarise

__all__ = ["Answer", "Arm", "Comparison", "Level", "Summary", "compare", "run", "summarise"]
