"""Memory during a training does not grow with the number of steps.

The samples are those of `tests/benchmarks/memory_series.py`, which takes them over thousands of steps.
"""

import numpy as np
import pytest

from pipeline.utils.processes import call
from tests.benchmarks.memory_series import train


@pytest.mark.heavy
def test_memory_stays_flat_over_steps_with_packed_batches(framework, tmp_path):
    samples = call(train, framework, "single-label", "stock", {}, tmp_path, 1000, framework=framework)
    steps, megabytes, files = np.array(samples).T
    late = steps > steps[-1] / 2
    growth = np.polyfit(steps[late], megabytes[late], 1)[0] * np.ptp(steps[late])
    assert growth < 1.5, f"{growth:.1f} MB in the second half of {steps[-1]:.0f} steps"
    assert len(set(files[late])) == 1
