"""The parts of ``benchmarks/gpu.py``, one file each.

A part is a module with ``NEEDS_GPU``, ``TITLE``, ``run(context)``, which measures row by row, and ``section(rows)``, which
makes Markdown of the rows.
"""
