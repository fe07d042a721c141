"""What `bench/gpu_check.py` runs on an NVIDIA GPU: two parts, each a table of phases (`parts.py`).

The files beside this one need the standard library only and never import cbkernels; `programs/` are the children.
"""
