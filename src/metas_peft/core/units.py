"""The only factors of a thousand in the project.

Inside the package energy is in J, power in W, latency in ms, durations in s. Whoever talks to a driver
that thinks in microjoules converts in its own file, through these names.
"""

MS_PER_S = 1e3
S_PER_MS = 1e-3
S_PER_US = 1e-6
J_PER_MJ = 1e-3
J_PER_UJ = 1e-6
J_PER_PJ = 1e-12
W_PER_MW = 1e-3
FLOPS_PER_TFLOPS = 1e12
GFLOPS_PER_TFLOPS = 1e3
BYTES_PER_MB = 1e6
BYTES_PER_GB = 1e9
BITS_PER_BYTE = 8
