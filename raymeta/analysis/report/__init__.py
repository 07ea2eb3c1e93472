"""The report of a results folder: one HTML page that needs nothing else."""

from raymeta.analysis.report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
