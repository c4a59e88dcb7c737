"""What scripts import before anything that imports torch: idle threads soon sleep.

Torch's OpenMP threads wait for their next piece of work by spinning, unless OMP_WAIT_POLICY says
otherwise; on a machine that does anything else they take the processor from each other. OpenMP
reads the variable once, when torch is imported, so it is too late for that in a function.

The load of the machine at that moment is not asked: what more spinning gains on an idle machine is
lost again if others compute meanwhile (docs/performance.md, "Waiting").
"""

import os

from lightning_adls.threads import brief_waiting

os.environ.update(brief_waiting(os.environ))
