"""How the kernels' threads wait in these tests."""

import os

# As in conf/backend/cpu.yaml; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
