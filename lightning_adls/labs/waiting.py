"""What scripts import before anything that imports torch: idle threads sleep instead of spinning.

Torch's OpenMP threads wait for their next piece of work by spinning, unless OMP_WAIT_POLICY says
otherwise; on a machine that does anything else they take the processor from each other. OpenMP
reads the variable once, when torch is imported, so it is too late for that in a function.
"""

import os

from lightning_adls.threads import WAIT_POLICY

os.environ.setdefault(WAIT_POLICY, "PASSIVE")
