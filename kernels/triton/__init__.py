"""The losses as Triton kernels. Imported only when this backend is chosen."""
