"""A report on runs: one HTML file about what ran and how good it is."""

from mmadclr.report.write import write_report

__all__ = ['write_report']
