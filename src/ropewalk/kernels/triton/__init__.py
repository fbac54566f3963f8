"""Kernels for CUDA tensors.  Each file imports triton at its top, so it is imported where it is called, never before.

With TRITON_INTERPRET=1 in the environment when triton is first imported, they take CPU tensors instead.
"""
