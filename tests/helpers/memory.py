"""Frees what TensorFlow keeps of graphs that no test uses any more, of which a worker would hold gigabytes."""

import ctypes
import gc
import os
import sys
from pathlib import Path

STATISTICS = Path("/proc/self/statm")  # of Linux; elsewhere nothing is freed


class GraphMemory:
    """Frees the graphs each time that the process has grown by so many MiB: looking for garbage takes half a second."""

    def __init__(self, growth_mib: int):
        self.growth_mib, self.last_mib = growth_mib, None

    def free_if_grown(self):
        """After a test; what fixtures of its module hold stays."""
        if "tensorflow" not in sys.modules or not STATISTICS.exists():
            return
        if self.last_mib is None:  # the libraries have just been loaded, or a first test has used them
            self.last_mib = resident_mib()
        elif resident_mib() > self.last_mib + self.growth_mib:
            free_graphs()
            self.last_mib = resident_mib()


def resident_mib():
    """The memory of this process."""
    return int(STATISTICS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


def free_graphs():
    """Forgets compiled kernels and custom gradients, and returns free memory to the system."""
    import tf_keras
    from tensorflow.python.framework import ops

    # The function of a `tf.custom_gradient` that is called in a graph is registered for good, and with it the graph,
    # its model and the optimizer. The gradients of graphs that fixtures hold are part of them already.
    registered = ops.gradient_registry._registry
    for name in [name for name in registered if name.startswith("CustomGradient-")]:
        del registered[name]
    gc.collect()
    tf_keras.backend.clear_session()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
